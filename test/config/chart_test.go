// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
)

const repository = "../.."

// helm runs the helm of hack/deploytools.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	modfile := filepath.Join(repository, "hack", "deploytools", "go.mod")
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"tool", "-modfile=" + modfile, "helm"}, args...)...)
	home := t.TempDir() // what the person who runs this told their own helm is not to count
	cmd.Env = append(os.Environ(), "HELM_CONFIG_HOME="+home, "HELM_CACHE_HOME="+home, "HELM_DATA_HOME="+home)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out) + stderr.String(), err
	}
	return string(out), nil
}

// chart is a copy of the chart: this process reads every file, and `go test` knows
// that the result depends on them.
func chart(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "chatrun-operator")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(repository, "charts", "chatrun-operator"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// template renders the chart as `helm install` would in chatrun-system.
func template(t *testing.T, args ...string) map[string]*unstructured.Unstructured {
	t.Helper()
	rendered, err := helm(t, append([]string{"template", "chatrun", chart(t), "--namespace=chatrun-system"}, args...)...)
	if err != nil {
		t.Fatalf("helm template %v: %v\n%s", args, err, rendered)
	}
	return parse(t, rendered)
}

func kustomize(t *testing.T, dir string) map[string]*unstructured.Unstructured {
	t.Helper()
	k := kubectl{path: filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl")}
	rendered, warnings, err := k.run(t, "", "kustomize", filepath.Join(repository, "config", dir))
	if err != nil {
		t.Fatalf("rendering config/%s: %v\n%s", dir, err, warnings)
	}
	return parse(t, rendered)
}

// parse returns the objects by kind, namespace and name.
func parse(t *testing.T, manifests string) map[string]*unstructured.Unstructured {
	t.Helper()
	all := map[string]*unstructured.Unstructured{}
	for docs := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(manifests), 4096); ; {
		object := &unstructured.Unstructured{}
		if err := docs.Decode(object); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if len(object.Object) == 0 {
			continue // a template that was switched off
		}
		key := object.GetKind() + " " + object.GetNamespace() + "/" + object.GetName()
		if all[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		all[key] = object
	}
}

// strip takes off what Helm's own objects have to have, and no others.
func strip(o *unstructured.Unstructured) {
	labels, annotations := o.GetLabels(), o.GetAnnotations()
	for _, key := range []string{"helm.sh/chart", "app.kubernetes.io/instance", "app.kubernetes.io/managed-by"} {
		delete(labels, key)
	}
	delete(annotations, "helm.sh/resource-policy")
	o.SetLabels(labels)
	o.SetAnnotations(annotations)
	if len(labels) == 0 {
		unstructured.RemoveNestedField(o.Object, "metadata", "labels")
	}
	if len(annotations) == 0 {
		unstructured.RemoveNestedField(o.Object, "metadata", "annotations")
	}
}

// TestChartIsConfig: the chart and config/ give the same objects.
func TestChartIsConfig(t *testing.T) {
	for dir, args := range map[string][]string{"default": nil, "front-door": {"--set=frontDoor.enabled=true"}} {
		want, got := kustomize(t, dir), template(t, args...)
		// Helm makes the namespace itself, before the chart: --create-namespace.
		const namespace = "Namespace /chatrun-system"
		if want[namespace] == nil {
			t.Errorf("config/%s has no namespace", dir)
		}
		delete(want, namespace)
		for key, object := range want {
			if got[key] == nil {
				t.Errorf("the chart lacks %s of config/%s", key, dir)
				continue
			}
			if got[key].GetLabels()["app.kubernetes.io/managed-by"] != "Helm" {
				t.Errorf("%s does not say that it is Helm's", key)
			}
			strip(got[key])
			if !reflect.DeepEqual(got[key].Object, object.Object) {
				t.Errorf("config/%s: %s is\n%s\nin the chart, and\n%s\nin config", dir, key, text(t, got[key]), text(t, object))
			}
		}
		for key := range got {
			if want[key] == nil {
				t.Errorf("config/%s lacks %s of the chart", dir, key)
			}
		}
	}
}

func text(t *testing.T, o *unstructured.Unstructured) string {
	t.Helper()
	b, err := json.Marshal(o.Object)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestInstallIsDefault: dist/install.yaml is what config/default gives.
func TestInstallIsDefault(t *testing.T) {
	install, err := os.ReadFile(filepath.Join(repository, "dist", "install.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := parse(t, string(install)), kustomize(t, "default"); !reflect.DeepEqual(got, want) {
		t.Error("dist/install.yaml is not config/default: make dist")
	}
}

func TestChartLintsAndRefuses(t *testing.T) {
	if out, err := helm(t, "lint", "--strict", chart(t)); err != nil {
		t.Errorf("helm lint: %v\n%s", err, out)
	}
	for _, bad := range []string{"replica=3", "flags.max-concurent-streams=5", "image.digest=sha256:12", "replicas=-1", "watchNamespaces={Team}"} {
		if out, err := helm(t, "template", chart(t), "--set="+bad); err == nil || !strings.Contains(out, "schema") {
			t.Errorf("--set=%s is taken: %v\n%s", bad, err, out)
		}
	}
}

// TestChartNamespaced: Roles in the namespaces, and no ClusterRole of the manager's.
func TestChartNamespaced(t *testing.T) {
	got, all := template(t, "--set=watchNamespaces={team-a,team-b}"), template(t)
	rules := all["ClusterRole /chatrun-manager-role"].Object["rules"]
	for _, namespace := range []string{"team-a", "team-b"} {
		role, binding := got["Role "+namespace+"/chatrun-manager-role"], got["RoleBinding "+namespace+"/chatrun-manager-rolebinding"]
		if role == nil || binding == nil || !reflect.DeepEqual(role.Object["rules"], rules) {
			t.Errorf("%s has Role %v, RoleBinding %v", namespace, role, binding)
		}
	}
	var bound []string
	for _, object := range got {
		if object.GetKind() == "ClusterRoleBinding" {
			name, _, _ := unstructured.NestedString(object.Object, "roleRef", "name")
			bound = append(bound, name)
		}
	}
	if !slices.Equal(bound, []string{"system:auth-delegator"}) || got["ClusterRole /chatrun-manager-role"] != nil {
		t.Errorf("in the cluster it is bound to %v", bound)
	}
	if deployment := text(t, got["Deployment chatrun-system/chatrun-manager"]); !strings.Contains(deployment, `"--watch-namespaces=team-a,team-b"`) {
		t.Errorf("the manager is not told: %s", deployment)
	}
}

// TestChartFlags: a flag of docs/operations.md is one that the chart sets, one that
// it takes, or one that a pod has no use for.
func TestChartFlags(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(repository, "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Flags\n")
	section, _, _ = strings.Cut(section, "\n## ")
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `--[^|]*").FindAllString(section, -1) {
		for _, flag := range regexp.MustCompile("--([a-z0-9-]+)").FindAllStringSubmatch(row, -1) {
			documented[flag[1]] = true
		}
	}
	var schema struct {
		Properties struct {
			Flags struct{ Properties map[string]any }
		}
	}
	file, err := os.ReadFile(filepath.Join(repository, "charts", "chatrun-operator", "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(file, &schema); err != nil {
		t.Fatal(err)
	}
	taken := schema.Properties.Flags.Properties
	for flag := range taken {
		if !documented[flag] {
			t.Errorf("the chart takes --%s, which docs/operations.md does not know", flag)
		}
	}
	// For a process outside of a pod, or one that shares no volume of the chart's.
	outside := []string{"kubeconfig", "stream-local", "stream-tls-cert-file", "stream-tls-key-file", "lease-namespace"}
	deployment := text(t, template(t, "--set=frontDoor.enabled=true,watchNamespaces={a}")["Deployment chatrun-system/chatrun-manager"])
	for flag := range documented {
		set := regexp.MustCompile(`"--` + flag + `[="]`).MatchString(deployment)
		if _, takes := taken[flag]; takes == set && !slices.Contains(outside, flag) {
			t.Errorf("--%s: taken %v, set by the chart %v", flag, takes, set)
		}
	}
	if got := text(t, template(t, "--set=flags.stream-log-bytes=104857600")["Deployment chatrun-system/chatrun-manager"]); !strings.Contains(got, `"--stream-log-bytes=104857600"`) {
		t.Errorf("a large number becomes another: %s", got)
	}
}

// TestChartTraces: a share stays one, a large number whole, and the key for a
// collector can be brought.
func TestChartTraces(t *testing.T) {
	values := filepath.Join(t.TempDir(), "values.yaml")
	text := `
flags: {traces-endpoint: http://collector:4318, traces-ratio: 0.1, traces-headers-file: /etc/traces/headers, max-concurrent-streams: 2000000}
extraVolumes: [{name: traces, secret: {secretName: traces}}]
extraVolumeMounts: [{name: traces, mountPath: /etc/traces, readOnly: true}]
`
	if err := os.WriteFile(values, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var deployment appsv1.Deployment
	got := template(t, "--values="+values)["Deployment chatrun-system/chatrun-manager"]
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(got.Object, &deployment, true); err != nil {
		t.Fatal(err)
	}
	pod := deployment.Spec.Template.Spec
	for _, want := range []string{"--traces-ratio=0.1", "--max-concurrent-streams=2000000", "--traces-endpoint=http://collector:4318"} {
		if !slices.Contains(pod.Containers[0].Args, want) {
			t.Errorf("%s is not among %v", want, pod.Containers[0].Args)
		}
	}
	volume := func(v corev1.Volume) bool { return v.Secret != nil && v.Secret.SecretName == "traces" }
	mount := func(m corev1.VolumeMount) bool { return m.Name == "traces" && m.MountPath == "/etc/traces" }
	if !slices.ContainsFunc(pod.Volumes, volume) || !slices.ContainsFunc(pod.Containers[0].VolumeMounts, mount) {
		t.Errorf("the Secret is not brought: %v, %v", pod.Volumes, pod.Containers[0].VolumeMounts)
	}
}

// TestChartLives: install, upgrade with another CRD, uninstall. The kinds and the
// runs stay, and nothing else.
func TestChartLives(t *testing.T) {
	k := start(t)
	dir := chart(t)
	release := func(args ...string) {
		t.Helper()
		if out, err := helm(t, append(args, "--namespace=chatrun-system", "--kubeconfig="+k.kubeconfig)...); err != nil {
			t.Fatalf("helm %v: %v\n%s", args, err, out)
		}
	}
	must := func(args ...string) string {
		t.Helper()
		answer, warnings, err := k.run(t, "", args...)
		if err != nil {
			t.Fatalf("kubectl %v: %v\n%s", args, err, warnings)
		}
		return answer
	}
	release("install", "chatrun", dir, "--create-namespace")
	must("wait", "--for=condition=Established", "--timeout=30s", "crd/chatruns.chatrun.dev", "crd/chatproviders.chatrun.dev")
	rights(t, k)
	k.apply(t, "samples")
	runs := must("get", "chatruns", "-A", "-o=name")

	file := filepath.Join(dir, "files", "crds", "chatrun.dev_chatruns.yaml")
	crd, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(crd, []byte("shortNames:\n    - chr"), []byte("shortNames:\n    - chr\n    - chrnext"), 1)
	if err := os.WriteFile(file, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	release("upgrade", "chatrun", dir, "--set=replicas=3")
	if names := must("get", "crd", "chatruns.chatrun.dev", "-o=jsonpath={.spec.names.shortNames}"); !strings.Contains(names, "chrnext") {
		t.Errorf("the upgrade left the CRD as it was: %s", names)
	}
	if n := must("get", "deploy", "chatrun-manager", "--namespace=chatrun-system", "-o=jsonpath={.spec.replicas}"); n != "3" {
		t.Errorf("after the upgrade there are %s replicas", n)
	}

	release("uninstall", "chatrun")
	if left := must("get", "chatruns", "-A", "-o=name"); left != runs || runs == "" {
		t.Errorf("of the runs %q are left %q", runs, left)
	}
	kinds := strings.Fields(must("api-resources", "--verbs=list", "-o=name"))
	left := strings.Fields(must("get", strings.Join(kinds, ","), "-A", "--selector=app.kubernetes.io/managed-by=Helm", "-o=name", "--ignore-not-found"))
	want := []string{"customresourcedefinition.apiextensions.k8s.io/chatproviders.chatrun.dev", "customresourcedefinition.apiextensions.k8s.io/chatruns.chatrun.dev"}
	if slices.Sort(left); !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}
}
