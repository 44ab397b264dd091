import java.io.File;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.message.BinaryMessageEncoder;
import org.apache.avro.message.MessageEncoder;
import org.apache.avro.message.RawMessageEncoder;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteBufferSerializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Publishes the records of a FASTA file: BOOTSTRAP TOPIC SCHEMA_FILE FASTA [REGISTRY_URL]. With a schema registry it writes
 * Confluent framing, with the schema that is registered there, as Confluent's serializers do.
 */
public final class PublishSequences {
    public static void main(String[] arguments) throws Exception {
        String topic = arguments[1];
        Registry.Registered registered = arguments.length > 4 ? new Registry(arguments[4]).latest(topic) : null;
        Schema schema = registered == null ? new Schema.Parser().parse(new File(arguments[2])) : registered.schema();
        // Writes Avro single-object encoding, or the bare record.
        MessageEncoder<GenericRecord> encoder = registered == null
                ? new BinaryMessageEncoder<>(GenericData.get(), schema)
                : new RawMessageEncoder<>(GenericData.get(), schema);
        // The defaults are those of an idempotent producer: a retry neither repeats nor reorders.
        Map<String, Object> options = Map.of(
                "bootstrap.servers", arguments[0],
                "delivery.timeout.ms", 60_000,
                "request.timeout.ms", 20_000,
                "max.request.size", 4_000_000);
        try (var producer = new KafkaProducer<>(options, new StringSerializer(), new ByteBufferSerializer())) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            String[] records = Files.readString(Path.of(arguments[3])).split(">");
            for (int number = 1; number < records.length; number++) {
                String[] lines = records[number].split("\n", 2);
                String[] header = lines[0].strip().split(" ", 2);
                GenericRecord record = new GenericData.Record(schema);
                record.put("id", header[0]);
                record.put("sequence", lines[1].replaceAll("\\s", ""));
                record.put("description", header.length > 1 ? header[1] : null);
                record.put("metadata", Map.of());
                ByteBuffer value = encoder.encode(record);
                if (registered != null) {
                    value = ByteBuffer.allocate(5 + value.remaining()).put((byte) 0).putInt(registered.id()).put(value).flip();
                }
                sent.add(producer.send(new ProducerRecord<>(topic, header[0], value)));
            }
            for (Future<RecordMetadata> each : sent) {
                each.get(); // throws for a record that was not delivered within delivery.timeout.ms
            }
        }
    }
}
