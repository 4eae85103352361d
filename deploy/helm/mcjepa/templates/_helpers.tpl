{{- define "mcjepa.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "mcjepa.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "mcjepa.labels" -}}
{{ include "mcjepa.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* Whole numbers arrive as floats, which would be written as 6.7108864e+07. */}}
{{- define "mcjepa.text" -}}
{{- if kindIs "slice" . }}{{ join "," . }}
{{- else if and (kindIs "float64" .) (eq . (floor .)) }}{{ int64 . }}
{{- else }}{{ . }}{{ end }}
{{- end }}

{{- define "mcjepa.keysSecret" -}}
{{- if .Values.apiKeys.existingSecret }}{{ .Values.apiKeys.existingSecret }}
{{- else if .Values.apiKeys.hashes }}{{ include "mcjepa.name" . }}-api-keys{{ end }}
{{- end }}

{{/* gRPC addresses. A name that stood for all Tritons would be one connection, to one of them. */}}
{{- define "mcjepa.tritonUrls" -}}
{{- $name := include "mcjepa.name" . }}
{{- $domain := printf "%s.svc.%s" .Release.Namespace .Values.clusterDomain }}
{{- $urls := list }}
{{- if eq .Values.engine "triton" }}
{{- range until (int .Values.triton.replicas) }}
{{- $urls = append $urls (printf "%s-triton-%d.%s-triton.%s:8001" $name . $name $domain) }}
{{- end }}
{{- else }}
{{- range until (int .Values.kserve.maxReplicas) }}
{{- $urls = append $urls (printf "%s-kserve.%s:8001" $name $domain) }}
{{- end }}
{{- end }}
{{- join "," $urls }}
{{- end }}

{{/* What copies the models of an image into the volume models. */}}
{{- define "mcjepa.modelsInit" -}}
{{- if eq .source "image" }}
initContainers:
  - name: models
    image: {{ required "modelRepository.image.reference is needed with the source image" .image.reference }}
    command: [cp, -r, /models/., /repository]
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
    resources:
      requests: {cpu: 100m, memory: 64Mi}
      limits: {memory: 256Mi}
    volumeMounts:
      - {name: models, mountPath: /repository}
{{- end }}
{{- end }}

{{- define "mcjepa.modelsVolume" -}}
{{- if eq .source "image" }}
- name: models
  emptyDir: {}
{{- else if eq .source "pvc" }}
- name: models
  persistentVolumeClaim:
    claimName: {{ required "modelRepository.pvc.claimName is needed with the source pvc" .pvc.claimName }}
    readOnly: true
{{- end }}
{{- end }}

{{- define "mcjepa.modelsMount" -}}
{{- if ne .source "s3" }}
- name: models
  mountPath: /models
  readOnly: true
  {{- if and (eq .source "pvc") .pvc.subPath }}
  subPath: {{ .pvc.subPath }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "mcjepa.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
