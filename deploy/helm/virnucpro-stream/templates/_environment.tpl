{{/* A value as text: a whole number of a values file is a float, which would be written 1e+06. */}}
{{- define "virnucpro.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) -}}{{- int64 . -}}{{- else -}}{{- toString . -}}{{- end -}}
{{- end -}}

{{/* Variable -> value of the service's settings, without the instance id and what comes from Secrets. */}}
{{- define "virnucpro.environment" -}}
{{- $kafka := .Values.kafka -}}
{{- $env := dict
  "VIRNUCPRO_KAFKA_BOOTSTRAP_SERVERS" (required "kafka.bootstrapServers is required: host:port, several with commas" $kafka.bootstrapServers)
  "VIRNUCPRO_INPUT_TOPIC" $kafka.inputTopic
  "VIRNUCPRO_OUTPUT_TOPIC" $kafka.outputTopic
  "VIRNUCPRO_DLQ_TOPIC" $kafka.dlqTopic
  "VIRNUCPRO_GROUP_ID" $kafka.groupId
  "VIRNUCPRO_DELIVERY" $kafka.delivery
  "VIRNUCPRO_V1_ATTENTION" (toString .Values.v1Attention)
  "VIRNUCPRO_DRAIN_TIMEOUT_S" (include "virnucpro.text" .Values.drainTimeoutSeconds)
  "VIRNUCPRO_HTTP_PORT" "8080"
  "VIRNUCPRO_LOG_FORMAT" "json"
  "VIRNUCPRO_DEVICE" (ternary "cuda" "cpu" .Values.gpu.enabled)
  "VIRNUCPRO_MODEL" .Values.model.name
-}}
{{- if include "virnucpro.modelVolume" . -}}
{{- $_ := set $env "VIRNUCPRO_MODEL" (printf "/models/%s" .Values.model.name) -}}
{{- end -}}
{{- $limits := default dict .Values.resources.limits -}}
{{- $cpu := default (default dict .Values.resources.requests).cpu $limits.cpu -}}
{{- if and (not .Values.gpu.enabled) $cpu -}}
{{- /* torch counts the node's cores and ignores the pod's. */ -}}
{{- $cpu = toString $cpu -}}
{{- $cores := ternary (div (trimSuffix "m" $cpu | int) 1000) (int (float64 $cpu)) (hasSuffix "m" $cpu) -}}
{{- $_ := set $env "OMP_NUM_THREADS" (toString (max 1 $cores)) -}}
{{- end -}}
{{- if $kafka.tls.existingSecret -}}
{{- $_ := set $env "VIRNUCPRO_KAFKA_SSL_CA_LOCATION" "/etc/virnucpro/tls/ca.crt" -}}
{{- if $kafka.tls.clientCertificate -}}
{{- $_ := set $env "VIRNUCPRO_KAFKA_SSL_CERTIFICATE_LOCATION" "/etc/virnucpro/tls/tls.crt" -}}
{{- $_ := set $env "VIRNUCPRO_KAFKA_SSL_KEY_LOCATION" "/etc/virnucpro/tls/tls.key" -}}
{{- end -}}
{{- end -}}
{{- range $option, $value := $kafka.options -}}
{{- $_ := set $env (printf "VIRNUCPRO_KAFKA_%s" ($option | replace "." "_" | upper)) (include "virnucpro.text" $value) -}}
{{- end -}}
{{- range $name, $value := .Values.settings -}}
{{- if hasKey $env $name -}}
{{- fail (printf "settings.%s has a value of its own in this chart: set that one" $name) -}}
{{- end -}}
{{- $_ := set $env $name (include "virnucpro.text" $value) -}}
{{- end -}}
{{- toYaml $env -}}
{{- end -}}
