{{- define "sse.name" -}}
{{- $chart := .Values.nameOverride | default .Chart.Name }}
{{- .Values.fullnameOverride | default (contains $chart .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $chart)) | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "sse.account" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "sse.name" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "sse.selector" -}}
app.kubernetes.io/name: sse-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end }}

{{- define "sse.labels" -}}
app.kubernetes.io/name: sse-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A pod's labels change with its image and settings only: a new chart alone must not roll the pods, which ends every stream. */}}
{{- define "sse.podLabels" -}}
{{ include "sse.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- with mergeOverwrite (dict) .Values.commonLabels .Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* How many pods. Where an autoscaler has, or has just had, a say, never fewer than there are: the API server would make one of none. */}}
{{- define "sse.replicas" -}}
{{- $name := include "sse.name" . }}
{{- $wanted := .Values.autoscaling.enabled | ternary .Values.autoscaling.minReplicas .Values.replicas }}
{{- $scaled := or .Values.autoscaling.enabled (lookup "autoscaling/v2" "HorizontalPodAutoscaler" .Release.Namespace $name) }}
{{- $live := lookup "apps/v1" "Deployment" .Release.Namespace $name }}
{{- if and $scaled $live }}{{ max (int $wanted) (int $live.spec.replicas) }}{{ else }}{{ $wanted }}{{ end }}
{{- end }}

{{- define "sse.image" -}}
{{- with .Values.image }}{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}{{ end }}
{{- end }}

{{/* The settings: what config says, over what the chart's other values say. */}}
{{- define "sse.config" -}}
{{- $set := dict "SSE_LISTEN" (printf "%s:%v" .Values.ports.host .Values.ports.public) "SSE_ADMIN_LISTEN" (printf "%s:%v" .Values.ports.host .Values.ports.admin) }}
{{- if .Values.redis.enabled }}{{ $_ := set $set "SSE_REDIS_URL" (printf "redis://%s-redis:6379/0" (include "sse.name" .)) }}{{ end }}
{{- toYaml (mergeOverwrite $set .Values.config) }}
{{- end }}

{{/* SSE_DRAIN in whole seconds, rounded up. */}}
{{- define "sse.drain" -}}
{{- $drain := toString (.Values.config.SSE_DRAIN | default "20s") }}
{{- $number := regexFind "^[0-9.]+" $drain | float64 }}
{{- $unit := regexFind "[a-z]+$" $drain }}
{{- $factor := get (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "" 1.0) $unit }}
{{- mulf $number $factor | ceil | int }}
{{- end }}

{{/* What every container here may not do: the restricted Pod Security Standard. */}}
{{- define "sse.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "sse.user" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
seccompProfile:
  type: RuntimeDefault
{{- end }}
