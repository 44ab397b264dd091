// Publishes the records of a FASTA file: BOOTSTRAP TOPIC SCHEMA_FILE FASTA [REGISTRY_URL].
// With a schema registry it writes Confluent framing, with the schema that is registered there.
package main

import (
	"context"
	"log"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/hamba/avro/v2/registry"
	"github.com/hamba/avro/v2/soe"
	"github.com/twmb/franz-go/pkg/kgo"
)

type sequenceRecord struct {
	ID          string            `avro:"id"`
	Sequence    string            `avro:"sequence"`
	Description *string           `avro:"description"`
	Metadata    map[string]string `avro:"metadata"`
}

func main() {
	bootstrap, topic, schemaFile, fasta := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	schema, err := avro.ParseFiles(schemaFile)
	check(err)
	// Avro single-object encoding: two bytes, the schema's fingerprint, the record.
	header, err := soe.BuildHeader(schema)
	check(err)
	if len(os.Args) > 5 {
		schemas, err := registry.NewClient(os.Args[5])
		check(err)
		registered, err := schemas.GetLatestSchemaInfo(ctx, topic+"-value")
		check(err)
		// Confluent framing: 0, the schema's id in four bytes, the record.
		schema, header = registered.Schema, append([]byte{0}, registered.IDBytes()...)
	}
	// The client is idempotent by default: a retry neither repeats nor reorders.
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ProducerBatchMaxBytes(4_000_000))
	check(err)
	defer client.Close()
	text, err := os.ReadFile(fasta)
	check(err)
	var messages []*kgo.Record
	for _, record := range strings.Split(string(text), ">")[1:] {
		first, lines, _ := strings.Cut(record, "\n")
		name, rest, described := strings.Cut(strings.TrimSpace(first), " ")
		fields := sequenceRecord{ID: name, Sequence: strings.Join(strings.Fields(lines), "")}
		if described {
			fields.Description = &rest
		}
		body, err := avro.Marshal(schema, fields)
		check(err)
		message := kgo.Record{Topic: topic, Key: []byte(name), Value: slices.Concat(header, body)}
		messages = append(messages, &message)
	}
	check(client.ProduceSync(ctx, messages...).FirstErr())
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
