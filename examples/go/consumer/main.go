// Prints COUNT predictions, from the first one in the topic on: BOOTSTRAP TOPIC SCHEMA_FILE COUNT [REGISTRY_URL].
// With a schema registry it reads Confluent framing, by the schema of the id.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/hamba/avro/v2/registry"
	"github.com/hamba/avro/v2/soe"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The fields that this program needs; the decoder passes over all others.
type prediction struct {
	ID         string   `avro:"id"`
	Verdict    string   `avro:"verdict"`
	VirusScore *float32 `avro:"virus_score"`
}

func main() {
	bootstrap, topic, schemaFile := os.Args[1], os.Args[2], os.Args[3]
	left, err := strconv.Atoi(os.Args[4])
	check(err)
	schema, err := avro.ParseFiles(schemaFile)
	check(err)
	// Fails for the fingerprint of another schema; soe.NewDynamicDecoder takes several versions.
	codec, err := soe.NewCodec(schema)
	check(err)
	decode := func(_ context.Context, value []byte, found any) error { return codec.Decode(value, found) }
	if len(os.Args) > 5 {
		schemas, err := registry.NewClient(os.Args[5])
		check(err)
		decode = registry.NewDecoder(schemas).Decode
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap),
		kgo.ConsumerGroup("example-go"),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), // each answer once, whatever was killed
	)
	check(err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for left > 0 {
		fetches := client.PollFetches(ctx)
		check(ctx.Err())
		fetches.EachError(func(topic string, partition int32, err error) {
			log.Fatalf("%s/%d: %v", topic, partition, err)
		})
		fetches.EachRecord(func(message *kgo.Record) {
			var found prediction
			check(decode(ctx, message.Value, &found))
			score := "null"
			if found.VirusScore != nil {
				score = fmt.Sprint(*found.VirusScore)
			}
			fmt.Printf("%s\t%s\t%s\n", found.ID, found.Verdict, score)
			left--
		})
		check(client.CommitUncommittedOffsets(ctx))
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
