import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import org.apache.avro.Schema;

/** What a schema registry with Confluent's API has of a topic or an id. */
record Registry(String url) {
    record Registered(int id, Schema schema) {}

    Registered latest(String topic) throws IOException, InterruptedException {
        JsonNode found = get("/subjects/" + topic + "-value/versions/latest");
        return new Registered(found.get("id").asInt(), parsed(found));
    }

    Schema byId(int id) throws IOException, InterruptedException {
        return parsed(get("/schemas/ids/" + id));
    }

    private static Schema parsed(JsonNode found) {
        return new Schema.Parser().parse(found.get("schema").asText());
    }

    private JsonNode get(String path) throws IOException, InterruptedException {
        var request = HttpRequest.newBuilder(URI.create(url + path)).timeout(Duration.ofSeconds(10)).build();
        var answer = HttpClient.newHttpClient().send(request, BodyHandlers.ofString());
        if (answer.statusCode() != 200) {
            throw new IOException(url + path + " answers " + answer.statusCode() + ": " + answer.body());
        }
        return new ObjectMapper().readTree(answer.body());
    }
}
