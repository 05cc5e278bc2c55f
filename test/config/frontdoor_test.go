// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestFrontDoorIsDefaultAndLittleMore: what config/front-door adds, and that the
// manager may do what it needs for it and nothing beside.
func TestFrontDoorIsDefaultAndLittleMore(t *testing.T) {
	k := start(t)
	before := objects(k.apply(t, "default"))
	after := objects(k.apply(t, "front-door"))
	added := slices.DeleteFunc(slices.Clone(after), func(o string) bool { return slices.Contains(before, o) })
	want := []string{
		"apiservice.apiregistration.k8s.io/v1alpha1.stream.chatrun.dev",
		"rolebinding.rbac.authorization.k8s.io/chatrun-manager-authentication-reader",
	}
	if slices.Sort(added); !slices.Equal(added, want) || len(after) != len(before)+len(want) {
		t.Errorf("config/front-door adds %v, want %v", added, want)
	}

	client := k.client(t)
	manager, err := client.AppsV1().Deployments("chatrun-system").Get(t.Context(), "chatrun-manager", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod := manager.Spec.Template
	if args := pod.Spec.Containers[0].Args; !slices.Contains(args, "--stream-front-door") || !slices.Contains(args, "--worker-process=$(POD_UID)") {
		t.Errorf("the manager's flags are %v", args)
	}
	if !strings.Contains(pod.Spec.Containers[0].VolumeMounts[0].MountPath+" ", "/etc/chatrun/stream-tls ") || pod.Spec.Volumes[0].Secret.SecretName != "chatrun-stream-tls" {
		t.Errorf("the certificate is not mounted: %+v, %+v", pod.Spec.Containers[0].VolumeMounts, pod.Spec.Volumes)
	}
	service, err := client.CoreV1().Services("chatrun-system").Get(t.Context(), "chatrun-stream", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range service.Spec.Selector {
		if pod.Labels[key] != value {
			t.Errorf("the Service selects %s=%s, the pods have %v", key, value, pod.Labels)
		}
	}
	const published = "configmaps/extension-apiserver-authentication"
	canI(t, k, []question{
		{"yes", []string{"get", published, "--namespace=kube-system"}},
		{"yes", []string{"watch", published, "--namespace=kube-system"}},
		{"no", []string{"watch", "configmaps/another", "--namespace=kube-system"}},
		{"no", []string{"list", "configmaps", "--namespace=kube-system"}},
		{"yes", []string{"create", "tokenreviews.authentication.k8s.io"}},
		{"yes", []string{"create", "subjectaccessreviews.authorization.k8s.io"}},
		{"no", []string{"impersonate", "users"}},
		{"no", []string{"patch", "apiservices.apiregistration.k8s.io"}},
	})
}

// TestFrontDoorAsDocumented renders the kustomization of docs/access.md.
func TestFrontDoorAsDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "access.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "```yaml\n# kustomization.yaml")
	block, _, found := strings.Cut(block, "```")
	if !found {
		t.Fatal("docs/access.md has no kustomization")
	}
	tree := t.TempDir()
	if err := os.CopyFS(tree, os.DirFS(filepath.Join("..", "..", "config"))); err != nil {
		t.Fatal(err)
	}
	mine := filepath.Join(tree, "mine")
	if err := os.Mkdir(mine, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(mine, "kustomization.yaml"), []byte("#"+block), 0o600); err != nil {
		t.Fatal(err)
	}
	k := kubectl{path: filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl")}
	rendered, warnings, err := k.run(t, "", "kustomize", mine)
	if err != nil || warnings != "" {
		t.Fatalf("rendering it: %v\n%s", err, warnings)
	}
	for _, want := range []string{"caBundle: LS0t", "image: registry.example/chatrun-operator:v1", "--stream-front-door"} {
		if !strings.Contains(rendered, want) {
			t.Errorf("it has no %s:\n%s", want, rendered)
		}
	}
}

// objects are the names in kubectl's answer.
func objects(answer string) []string {
	var names []string
	for line := range strings.Lines(answer) {
		name, _, _ := strings.Cut(line, " ")
		names = append(names, name)
	}
	return names
}
