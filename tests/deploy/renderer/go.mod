module renderer

go 1.24.0

require helm.sh/helm/v3 v3.22.0
