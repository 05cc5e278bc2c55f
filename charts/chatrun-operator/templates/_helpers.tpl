{{- define "chatrun.selector" -}}
app.kubernetes.io/name: {{ ternary "chatrun-operator" (printf "%s-operator" .Values.namePrefix) (eq .Values.namePrefix "chatrun") }}
app.kubernetes.io/component: manager
{{- end }}

{{- define "chatrun.helm" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "chatrun.labels" -}}
{{ include "chatrun.selector" . }}
{{ include "chatrun.helm" . }}
{{- end }}

{{- define "chatrun.subject" -}}
- kind: ServiceAccount
  name: {{ .Values.namePrefix }}-manager
  namespace: {{ .Release.Namespace }}
{{- end }}

{{- define "chatrun.tlsSecret" -}}
{{ .Values.stream.tls.secretName | default (ternary "chatrun-stream-tls" "" .Values.frontDoor.enabled) }}
{{- end }}
