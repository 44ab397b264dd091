{{- define "virnucpro.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "virnucpro.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "virnucpro.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "virnucpro.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "virnucpro.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "virnucpro.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "virnucpro.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "virnucpro.modelVolume" -}}
{{- if or .Values.model.existingClaim .Values.model.initContainer -}}yes{{- end -}}
{{- end -}}

{{/* A container that is not privileged in any way, and writes to its volumes only. */}}
{{- define "virnucpro.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Values that contradict each other end the rendering, with the cure. */}}
{{- define "virnucpro.check" -}}
{{- $scaling := .Values.autoscaling -}}
{{- if not (regexMatch "^[a-z]" (include "virnucpro.fullname" .)) -}}
{{- fail (printf "the name %s begins with a digit, which a Service may not have: set fullnameOverride" (include "virnucpro.fullname" .)) -}}
{{- end -}}
{{- if .Values.networkPolicy.enabled -}}
{{- range $server := splitList "," .Values.kafka.bootstrapServers -}}
{{- $port := regexFind ":[0-9]+$" $server | trimPrefix ":" | default "9092" | int -}}
{{- $open := dict "is" false -}}
{{- range $.Values.networkPolicy.kafkaPorts -}}{{- if eq (int .) $port -}}{{- $_ := set $open "is" true -}}{{- end -}}{{- end -}}
{{- if and $server (not $open.is) -}}
{{- fail (printf "kafka.bootstrapServers has port %d, which the network policy does not let through: add it to networkPolicy.kafkaPorts" $port) -}}
{{- end -}}
{{- end -}}
{{- if not .Values.networkPolicy.egress -}}
{{- range $name := list "VIRNUCPRO_SCHEMA_REGISTRY_URL" "OTEL_EXPORTER_OTLP_ENDPOINT" "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" -}}
{{- if hasKey $.Values.settings $name -}}
{{- fail (printf "settings.%s names a server that the network policy does not let through: add a rule to networkPolicy.egress" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.model.existingClaim .Values.model.initContainer -}}
{{- fail "model.existingClaim and model.initContainer both bring the model: set one of them" -}}
{{- end -}}
{{- if and .Values.kafka.tls.existingSecret (not (has (index .Values.kafka.options "security.protocol") (list "SSL" "SASL_SSL"))) -}}
{{- fail "kafka.tls.existingSecret is set, but the connection is not encrypted: set kafka.options.\"security.protocol\" to SSL or SASL_SSL" -}}
{{- end -}}
{{- if $scaling.enabled -}}
{{- if gt (int $scaling.maxReplicas) (int $scaling.partitions) -}}
{{- fail (printf "autoscaling.maxReplicas is %d, but the input topic has %d partitions, and a pod without a partition is idle: set it to that or less" (int $scaling.maxReplicas) (int $scaling.partitions)) -}}
{{- end -}}
{{- if and (eq $scaling.trigger "prometheus") (lt (int $scaling.minReplicas) 1) -}}
{{- fail "autoscaling.trigger is prometheus: without a pod there is no lag in seconds, so set autoscaling.minReplicas to 1 or more" -}}
{{- end -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- fail "autoscaling.minReplicas is more than autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and (gt (int $scaling.activationLagThreshold) 0) (lt (int $scaling.activationLagThreshold) (int $scaling.partitions)) -}}
{{- fail (printf "autoscaling.activationLagThreshold is %d: transactions leave a lag of 1 a partition, so it must be at least %d, or 0 for that" (int $scaling.activationLagThreshold) (int $scaling.partitions)) -}}
{{- end -}}
{{- if le (int $scaling.lagThreshold) (int $scaling.partitions) -}}
{{- fail (printf "autoscaling.lagThreshold is %d: transactions leave a lag of 1 a partition, so it must be far above %d" (int $scaling.lagThreshold) (int $scaling.partitions)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
