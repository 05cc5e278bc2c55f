//go:build tools

// Package tools lists the commands of the control plane that tests and the
// demo run against, so that go.mod holds their versions and go.sum their sums.
package tools

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kubectl"
)
