// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package config checks config/ against a control plane: what `make deploy`
// applies, what it allows the manager, and the samples.
package config

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard()) // it complains if nobody says
	os.Exit(m.Run())
}

// account is the manager's ServiceAccount in config/default.
const account = "system:serviceaccount:chatrun-system:chatrun-manager"

// kubectl is the control plane's, as admin.
type kubectl struct{ path, kubeconfig, cache string }

// start starts a control plane.
func start(t *testing.T) kubectl {
	t.Helper()
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		t.Fatal(`no control plane: run "make test", or export KUBEBUILDER_ASSETS=$(make -s controlplane)`)
	}
	env := &envtest.Environment{}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Errorf("stopping the control plane: %v", err)
		}
	})
	if _, err := env.Start(); err != nil {
		t.Fatalf("starting the control plane: %v", err)
	}
	dir := t.TempDir()
	k := kubectl{path: filepath.Join(assets, "kubectl"), kubeconfig: filepath.Join(dir, "kubeconfig"), cache: filepath.Join(dir, "cache")}
	if err := os.WriteFile(k.kubeconfig, env.KubeConfig, 0o600); err != nil {
		t.Fatal(err)
	}
	return k
}

// run returns both outputs: kubectl's answer, and what it warns of.
func (k kubectl) run(t *testing.T, input string, args ...string) (answer, warnings string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), k.path, append([]string{"--kubeconfig=" + k.kubeconfig, "--cache-dir=" + k.cache}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}

// apply applies a kustomization, and wants neither an error nor a warning.
func (k kubectl) apply(t *testing.T, dir string) string {
	t.Helper()
	// A copy, so that this process reads every file, and `go test` knows that the
	// result depends on them.
	tree := t.TempDir()
	if err := os.CopyFS(tree, os.DirFS(filepath.Join("..", "..", "config"))); err != nil {
		t.Fatal(err)
	}
	manifests, warnings, err := k.run(t, "", "kustomize", filepath.Join(tree, dir))
	if err != nil || warnings != "" {
		t.Fatalf("rendering config/%s: %v\n%s", dir, err, warnings)
	}
	answer, warnings, err := k.run(t, manifests, "apply", "--server-side", "--filename=-")
	if err != nil || warnings != "" {
		t.Fatalf("applying config/%s: %v\n%s", dir, err, warnings)
	}
	return answer
}

func TestDefaultAppliesAndGrantsTheLeast(t *testing.T) {
	k := start(t)
	answer := k.apply(t, "default")
	for _, object := range []string{
		"namespace/chatrun-system", "customresourcedefinition.apiextensions.k8s.io/chatruns.chatrun.dev",
		"customresourcedefinition.apiextensions.k8s.io/chatproviders.chatrun.dev", "serviceaccount/chatrun-manager",
		"clusterrole.rbac.authorization.k8s.io/chatrun-manager-role", "deployment.apps/chatrun-manager",
		"clusterrole.rbac.authorization.k8s.io/chatrun-viewer", "clusterrole.rbac.authorization.k8s.io/chatrun-editor",
		"clusterrole.rbac.authorization.k8s.io/chatrun-stream-reader", "clusterrole.rbac.authorization.k8s.io/chatprovider-admin",
		"clusterrole.rbac.authorization.k8s.io/chatrun-metrics-reader", "service/chatrun-metrics",
	} {
		if !strings.Contains(answer, object+" ") {
			t.Errorf("config/default has no %s:\n%s", object, answer)
		}
	}
	if strings.Contains(answer, "apiservice") {
		t.Errorf("config/default opens the front door:\n%s", answer)
	}
	// make deploy is run again to update.
	k.apply(t, "default")

	_, warnings, err := k.run(t, "", "wait", "--for=condition=Established", "--timeout=30s", "crd/chatruns.chatrun.dev", "crd/chatproviders.chatrun.dev")
	if err != nil {
		t.Fatalf("waiting for the kinds: %v\n%s", err, warnings)
	}
	k.apply(t, "samples")
	rights(t, k)
}

// rights asks the API server what the manager may do.
func rights(t *testing.T, k kubectl) {
	t.Helper()
	canI(t, k, []question{
		{"yes", []string{"watch", "chatruns.chatrun.dev", "--all-namespaces"}},
		{"yes", []string{"patch", "chatruns.chatrun.dev/x", "--subresource=status"}},
		{"yes", []string{"watch", "chatproviders.chatrun.dev", "--all-namespaces"}},
		{"yes", []string{"patch", "chatproviders.chatrun.dev/x", "--subresource=status"}},
		{"yes", []string{"get", "secrets/x"}},
		{"yes", []string{"create", "events.events.k8s.io"}},
		{"yes", []string{"create", "leases.coordination.k8s.io", "--namespace=chatrun-system"}},
		{"yes", []string{"update", "leases.coordination.k8s.io/x", "--namespace=chatrun-system"}},
		{"yes", []string{"watch", "leases.coordination.k8s.io", "--namespace=chatrun-system"}},
		{"no", []string{"get", "leases.coordination.k8s.io/x", "--namespace=kube-system"}},
		{"no", []string{"update", "leases.coordination.k8s.io/x", "--namespace=default"}},
		{"no", []string{"list", "secrets"}},
		{"no", []string{"watch", "secrets"}},
		{"yes", []string{"create", "secrets"}},
		{"no", []string{"update", "secrets/x"}},
		{"no", []string{"delete", "secrets/x"}},
		{"yes", []string{"get", "configmaps/x"}},
		{"yes", []string{"create", "configmaps"}},
		{"no", []string{"list", "configmaps"}},
		{"no", []string{"watch", "configmaps"}},
		{"no", []string{"update", "configmaps/x"}},
		{"no", []string{"delete", "configmaps/x"}},
		{"no", []string{"create", "chatruns.chatrun.dev"}},
		{"no", []string{"patch", "chatproviders.chatrun.dev/x"}},
		{"no", []string{"create", "pods"}},
	})
}

// question is what `kubectl auth can-i` is asked, and its answer.
type question struct {
	want string
	args []string
}

// canI asks for the manager.
func canI(t *testing.T, k kubectl, questions []question) {
	t.Helper()
	for _, c := range questions {
		args := append([]string{"auth", "can-i", "--as=" + account}, c.args...)
		// can-i exits with 1 for a no, so the answer counts, not the error.
		answer, _, _ := k.run(t, "", args...)
		if strings.TrimSpace(answer) != c.want {
			t.Errorf("may the manager %v? %q, want %q", c.args, answer, c.want)
		}
	}
}

// TestNamespacedGrantsInTheNamespaceAlone: config/namespaced and its part for each
// watched namespace, as docs/install.md puts them together.
func TestNamespacedGrantsInTheNamespaceAlone(t *testing.T) {
	k := start(t)
	if _, warnings, err := k.run(t, "", "create", "namespace", "team-a"); err != nil {
		t.Fatalf("creating a namespace: %v\n%s", err, warnings)
	}
	k.apply(t, "namespaced")
	rendered, warnings, err := k.run(t, "", "kustomize", filepath.Join("..", "..", "config", "namespaced", "watched"))
	if err != nil || warnings != "" {
		t.Fatalf("rendering config/namespaced/watched: %v\n%s", err, warnings)
	}
	if _, warnings, err := k.run(t, rendered, "apply", "--server-side", "--namespace=team-a", "--filename=-"); err != nil {
		t.Fatalf("applying config/namespaced/watched: %v\n%s", err, warnings)
	}
	canI(t, k, []question{
		{"yes", []string{"watch", "chatruns.chatrun.dev", "--namespace=team-a"}},
		{"yes", []string{"patch", "chatruns.chatrun.dev/x", "--subresource=status", "--namespace=team-a"}},
		{"yes", []string{"get", "secrets/x", "--namespace=team-a"}},
		{"yes", []string{"create", "events.events.k8s.io", "--namespace=team-a"}},
		{"no", []string{"list", "secrets", "--namespace=team-a"}},
		{"no", []string{"get", "chatruns.chatrun.dev", "--namespace=default"}},
		{"no", []string{"get", "secrets/x", "--namespace=default"}},
		{"no", []string{"watch", "chatruns.chatrun.dev", "--all-namespaces"}},
		{"yes", []string{"create", "tokenreviews.authentication.k8s.io"}},
		{"yes", []string{"create", "subjectaccessreviews.authorization.k8s.io"}},
		{"yes", []string{"watch", "leases.coordination.k8s.io", "--namespace=chatrun-system"}},
	})
}
