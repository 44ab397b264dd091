import java.io.File;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.time.Instant;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.message.BinaryMessageDecoder;
import org.apache.avro.message.RawMessageDecoder;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Prints COUNT predictions, from the first one in the topic on: BOOTSTRAP TOPIC SCHEMA_FILE COUNT [REGISTRY_URL]. Confluent
 * framing is read with the registry's schema of the id.
 */
public final class ReadPredictions {
    public static void main(String[] arguments) throws Exception {
        Schema schema = new Schema.Parser().parse(new File(arguments[2]));
        // Reads Avro single-object encoding; throws MissingSchemaException for a fingerprint that it was not given.
        var decoder = new BinaryMessageDecoder<GenericRecord>(GenericData.get(), schema);
        // decoder.addSchema(...) for each version of schemas/history/prediction that may be in the topic.
        var registry = arguments.length > 4 ? new Registry(arguments[4]) : null;
        Map<Integer, RawMessageDecoder<GenericRecord>> byId = new HashMap<>();
        Map<String, Object> options = Map.of(
                "bootstrap.servers", arguments[0],
                "group.id", "example-java",
                "auto.offset.reset", "earliest",
                "enable.auto.commit", false,
                "isolation.level", "read_committed"); // each answer once, whatever was killed
        int left = Integer.parseInt(arguments[3]);
        Instant deadline = Instant.now().plusSeconds(60);
        try (var consumer = new KafkaConsumer<>(options, new StringDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(arguments[1]));
            while (left > 0 && Instant.now().isBefore(deadline)) {
                for (ConsumerRecord<String, byte[]> message : consumer.poll(Duration.ofSeconds(1))) {
                    ByteBuffer value = ByteBuffer.wrap(message.value());
                    GenericRecord prediction;
                    if (registry != null && value.get(0) == 0) {
                        int id = value.position(1).getInt();
                        if (!byId.containsKey(id)) {
                            byId.put(id, new RawMessageDecoder<>(GenericData.get(), registry.byId(id)));
                        }
                        prediction = byId.get(id).decode(value);
                    } else {
                        prediction = decoder.decode(value);
                    }
                    System.out.printf("%s\t%s\t%s%n",
                            prediction.get("id"), prediction.get("verdict"), prediction.get("virus_score"));
                    left--;
                }
                consumer.commitSync(Duration.ofSeconds(30));
            }
        }
        if (left > 0) {
            System.err.println(left + " predictions are missing after 60 s");
            System.exit(1);
        }
    }
}
