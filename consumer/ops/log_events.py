"""The catalogue of log events: stable names, for people who grep and alert on them, and what each one means.

docs/logs.md is written from it (`make docs`), and a test compares it with the calls in the code.
"""

from __future__ import annotations

from collections.abc import Mapping

EVENTS: Mapping[str, str] = {
    "admin_client_replaced": "No broker has answered the client that asks about topics for long; another takes its "
    "place.",
    "announcement_failed": "The line `ready` could not be written to standard output; the service goes on.",
    "attention_backend_refused": "An attention back-end, the kernels or CUDA graphs cannot serve here, and why; what "
    "comes next does.",
    "attention_paths_disagree": "A batch that went through both attention paths differs by more than the limit.",
    "batch_done": "A batch has been scored.",
    "batch_failed": "One run of the model failed: out_of_memory or error. The batch is divided and run again.",
    "batch_halved": "The device ran out of memory; both halves of the batch are run.",
    "batch_not_enqueued": "A batch could not be put behind the one on the device, most likely for lack of memory; it "
    "is run when the device is free.",
    "batch_split": "The model failed on a batch; its parts are run to find the record that it fails on.",
    "breaker_closed": "Records pass again, and reading goes on.",
    "breaker_opened": "Too many of the latest records failed, so reading stops; with the reasons, the partitions and "
    "what to do.",
    "breaker_trial_failed": "Records read for trial failed too; the next trial comes after the pause.",
    "commit_not_ok": "A commit of offsets did not succeed: rebalancing (the next owner does the work again), error "
    "(it is repeated) or hung (a new producer repeats it).",
    "cleanup_policy_not_checked": "The broker does not say whether a topic for answers is compacted, most likely since "
    "the right DESCRIBE_CONFIGS is missing. On a compacted topic an answer without a key ends the service.",
    "committed_offset_unknown": "The broker withholds the committed offset of partitions, most likely because a "
    "transaction of their previous owner is still open. They are not read until it is known.",
    "cuda_graphs_recorded": "For these numbers of rows the forwards of ESM-2 and DNABERT-S are launched in one call; "
    "VIRNUCPRO_CUDA_GRAPHS=off turns it off.",
    "dependency_available": "The dependency of the codec answers again.",
    "dependency_unavailable": "A dependency of the codec does not answer; its records wait and are tried again.",
    "divergence_not_measured": "The run through the other attention path failed; the answers are not affected.",
    "drain_timed_out": "The drain's time was over; records that had started will be read again.",
    "draining": "The service was asked to stop; it drops what has not started and finishes what has.",
    "embedded_broker": "The service runs its own broker: data is in memory only, and there are no transactions.",
    "headers_dropped": "A header name is not UTF-8; the record is answered without the input's headers.",
    "http_connections_full": "Too many HTTP connections are open; the oldest are closed.",
    "http_exchange_too_slow": "An HTTP request did not come, or its response was not read, in time; it is closed.",
    "http_port_in_use": "The default HTTP port is in use by another process; the next free one is taken.",
    "instance_id_chosen": "The host name is in use as instance id by another process of the group on this machine.",
    "kafka_brokers_reachable": "A broker answers.",
    "kafka_brokers_unreachable": "No broker answers; the service waits and retries.",
    "kafka_client_error": "The Kafka client reports an error; most are transient.",
    "kafka_consumer_error": "`poll` returned an error; most are transient, and librdkafka retries.",
    "librdkafka": "A line of the Kafka client's library: `client`, `facility` and, without its guesses, `message`.",
    "log_truncated": "The log of a partition was truncated or its offset reset; it is read from there again.",
    "log_start_not_told": "The broker did not say where the log of a partition begins; asked again a second later.",
    "log_start_unknown": "Messages were missing before the ones read, and it is not known whether they were deleted; "
    "nothing is committed until it is.",
    "loop_hangs": "A call of the Kafka client did not return; the process ends so that another one takes over. "
    "`threads` says where each thread is.",
    "answer_rejected": "The broker rejected an answer; another form of it is sent, or the service ends.",
    "answer_retried": "An answer was not acknowledged and is sent again.",
    "model_loaded": "What computes the predictions.",
    "model_loading": "The model is being loaded.",
    "offset_commit_failed": "The commit of one partition's offset failed and is repeated.",
    "partition_counts_not_refreshed": "The broker did not say how many partitions the topics have; asked again later.",
    "partitions_assigned": "Partitions were assigned to this process.",
    "partitions_lost": "The group gave partitions to another member before this one could finish.",
    "partitions_revoked": "Partitions were taken back; at least once what ran was finished and committed first.",
    "paused": "Reading stopped: which budget is full, or the breaker, or the drain.",
    "pipeline_thread_ended": "A thread of the pipeline failed; the service ends.",
    "process_died_with_records_on_device": "The last process of this instance died with records on the device.",
    "producer_replaced": "A call of the transactional producer did not return; a new producer takes its place.",
    "schema_registered": "A schema that answers are written with, as the schema registry has it.",
    "schema_registry_awaited": "The schema registry does not answer at the start; the service waits for it.",
    "record_answered": "The answer to one record is in Kafka.",
    "record_given_up": "A record becomes a dead letter because the model cannot take it.",
    "record_run_alone": "A record runs alone: the process died while it was on the device.",
    "records_skipped": "Input was deleted before it was read: the offsets `from` to `to` of a partition.",
    "resumed": "Reading goes on.",
    "seek_refused": "The client refused to move to the committed offset of a partition; it is tried again.",
    "self_test_off": "The self-test is off: nothing has checked the attention path.",
    "service_failed": "What ends the process, with its exit code; the last line of a log in JSON.",
    "start_offset_corrected": "The client began a partition at another offset than the committed one; it is moved.",
    "state_file_discarded": "A state file is damaged or of another version; the service begins without it.",
    "spans_not_sent": "At the end the collector of traces did not take the last spans in time; they are lost.",
    "stopped": "The service has stopped; drained says whether all that had started was delivered.",
    "suspects_not_written": "The state folder cannot be written to; the service goes on without the quarantine.",
    "token_budget_found": "VIRNUCPRO_TOKEN_BUDGET=auto: the budget, and the rates that were measured, unless it "
    "was known.",
    "token_budget_not_kept": "The measured token budget could not be written to VIRNUCPRO_STATE_DIR; the next start "
    "measures it again.",
    "topic_differs": "At the start: a topic is not as the settings ask, and what mends it. Nothing stops for that.",
    "topic_missing": "A topic was not found; after several misses the service ends.",
    "topic_recreated": "A topic was deleted and made again. The input is read from the new one's first message; "
    "`dropped` messages in flight were of the old one, or may have been.",
    "topic_settings_not_shown": "The broker does not show the settings of a topic, most likely since the right "
    "DESCRIBE_CONFIGS is missing; they are not compared with what is wanted.",
    "transaction_left_open": "While the service ended, a transaction could not be aborted; the next process of "
    "the same instance id does it.",
    "transaction_to_abort": "Kafka asks for an abort; the same answers are sent again.",
}
