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
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteBufferSerializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Publishes the records of a FASTA file: BOOTSTRAP TOPIC SCHEMA_FILE FASTA. */
public final class PublishSequences {
    public static void main(String[] arguments) throws Exception {
        String topic = arguments[1];
        Schema schema = new Schema.Parser().parse(new File(arguments[2]));
        // Writes Avro single-object encoding.
        var encoder = new BinaryMessageEncoder<GenericRecord>(GenericData.get(), schema);
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
                sent.add(producer.send(new ProducerRecord<>(topic, header[0], value)));
            }
            for (Future<RecordMetadata> each : sent) {
                each.get(); // throws for a record that was not delivered within delivery.timeout.ms
            }
        }
    }
}
