{{/* What every object carries. Names are fixed: a cluster has one operator, as it has one CRD. */}}
{{- define "poolkeeper.labels" -}}
{{- $own := dict "app.kubernetes.io/name" "poolkeeper" "app.kubernetes.io/component" "operator" -}}
{{- $own = merge $own (dict "app.kubernetes.io/version" .Chart.AppVersion "app.kubernetes.io/managed-by" .Release.Service) -}}
{{- merge $own .Values.labels | toYaml -}}
{{- end }}

{{/* What tells the operator's pods from others. */}}
{{- define "poolkeeper.selector" -}}
app.kubernetes.io/name: poolkeeper
app.kubernetes.io/component: operator
{{- end }}

{{/*
An object's metadata: (dict "root" . "name" NAME), and where it has them "labels", "annotations", "namespace" (another than the
release's) or "cluster" true.
*/}}
{{- define "poolkeeper.metadata" -}}
name: {{ .name }}
{{- if not .cluster }}
namespace: {{ .namespace | default .root.Release.Namespace }}
{{- end }}
labels:
  {{- merge (dict) (.labels | default dict) (include "poolkeeper.labels" .root | fromYaml) | toYaml | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) .root.Values.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* An image's reference: (list . IMAGE), where what IMAGE leaves out is as in .Values.image. */}}
{{- define "poolkeeper.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $base := $root.Values.image -}}
{{- $repository := $image.repository | default $base.repository -}}
{{- $digest := $image.digest | default (ternary "" $base.digest (not (empty $image.tag))) -}}
{{- if $digest -}}
{{ $repository }}@{{ $digest }}
{{- else -}}
{{ $repository }}:{{ $image.tag | default $base.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Namespaces that no webhook is called for. */}}
{{- define "poolkeeper.excluded" -}}
{{- concat (list "kube-system" .Release.Namespace) .Values.webhooks.excludedNamespaces | uniq | toJson -}}
{{- end }}
