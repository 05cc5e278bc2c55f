// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// unscored are the tests of kube-score that are left out, and why.
var unscored = map[string]string{
	"container-image-pull-policy":                   "a tag of ours names one image for good, and a node that has it need not ask again",
	"container-ephemeral-storage-request-and-limit": "the root is read-only and no volume is for writing; a bound on the kubelet's own log would evict a manager for what it says",
	"deployment-has-host-podantiaffinity":           "topologySpreadConstraints spread the pods over hosts; kube-score knows only the older way",
}

// tool runs a tool of a module under hack/.
func tool(t *testing.T, module, input string, args ...string) (string, error) {
	t.Helper()
	modfile := filepath.Join(repository, "hack", module, "go.mod")
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"tool", "-modfile=" + modfile}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// manifests are what people install, with an image that has a tag.
func manifests(t *testing.T) map[string]string {
	t.Helper()
	install, err := os.ReadFile(filepath.Join(repository, "dist", "install.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	named := strings.Replace(string(install), "chatrun-operator:latest", "registry.example/chatrun-operator:v1", 1)
	all := map[string]string{"dist/install.yaml": named}
	for name, values := range map[string]string{"chart": "replicas=2", "chart, front door": "frontDoor.enabled=true", "chart, namespaced": "watchNamespaces={a,b}"} {
		all[name], err = helm(t, "template", "chatrun", chart(t), "--namespace=chatrun-system",
			"--set=image.repository=registry.example/chatrun-operator,image.tag=v1", "--set="+values)
		if err != nil {
			t.Fatalf("helm template %s: %v\n%s", values, err, all[name])
		}
	}
	return all
}

// TestScore: kube-score finds nothing, not even what it only warns of.
func TestScore(t *testing.T) {
	// No CPU limit: a throttled manager delays tokens and the renewal of its Lease.
	args := []string{"kube-score", "score", "--exit-one-on-warning", "--ignore-container-cpu-limit"}
	for test := range unscored {
		args = append(args, "--ignore-test="+test)
	}
	for name, manifest := range manifests(t) {
		if out, err := tool(t, "kubescore", manifest, append(args, "-")...); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// TestConform: kubeconform takes all of it, by the schemas of the control plane, and
// a field that there is none of is refused.
func TestConform(t *testing.T) {
	k := start(t)
	swagger, warnings, err := k.run(t, "", "get", "--raw=/openapi/v2")
	if err != nil {
		t.Fatalf("reading the schemas: %v\n%s", err, warnings)
	}
	schemas := write(t, swagger)
	conform := func(manifest string) (string, error) {
		return tool(t, "deploytools", manifest, "kubeconform", "-strict", "-summary",
			"-schema-location="+schemas+"/{{ .ResourceKind }}-{{ .Group }}-{{ .ResourceAPIVersion }}.json", "-")
	}
	for name, manifest := range manifests(t) {
		if out, err := conform(manifest); err != nil || !strings.Contains(out, "Invalid: 0, Errors: 0, Skipped: 0") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		bad := strings.Replace(manifest, "enableServiceLinks:", "enableServiceLink:", 1)
		if out, err := conform(bad); err == nil || !strings.Contains(out, "enableServiceLink") {
			t.Errorf("%s: an unknown field is taken: %v\n%s", name, err, out)
		}
	}
}

// write makes of the control plane's OpenAPI a JSON schema a kind, and returns their folder.
func write(t *testing.T, swagger string) string {
	t.Helper()
	var api struct{ Definitions map[string]map[string]any }
	if err := json.Unmarshal([]byte(swagger), &api); err != nil {
		t.Fatal(err)
	}
	for _, definition := range api.Definitions {
		if definition["format"] == "int-or-string" {
			definition["type"] = []string{"string", "integer"}
		}
		// OpenAPI takes fields that it does not name; strict is to refuse them.
		if _, says := definition["additionalProperties"]; definition["properties"] != nil && !says {
			definition["additionalProperties"] = false
		}
	}
	dir := t.TempDir()
	for name, definition := range api.Definitions {
		kinds, _ := definition["x-kubernetes-group-version-kind"].([]any)
		if len(kinds) != 1 {
			continue // none, or one of those that belong to every group
		}
		gvk := kinds[0].(map[string]any)
		schema := map[string]any{"$ref": "#/definitions/" + name, "definitions": closure(t, api.Definitions, name)}
		b, err := json.Marshal(schema)
		if err != nil {
			t.Fatal(err)
		}
		group := gvk["group"].(string)
		if group == "" {
			group = gvk["version"].(string) // kubeconform calls the core group so
		}
		file := strings.ToLower(gvk["kind"].(string)) + "-" + group + "-" + gvk["version"].(string) + ".json"
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// closure is a definition and all that it refers to.
func closure(t *testing.T, all map[string]map[string]any, name string) map[string]any {
	t.Helper()
	found, todo := map[string]any{}, []string{name}
	for len(todo) > 0 {
		next := todo[0]
		todo = todo[1:]
		if found[next] != nil {
			continue
		}
		found[next] = all[next]
		b, err := json.Marshal(all[next])
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range strings.Split(string(b), `"$ref":"#/definitions/`)[1:] {
			ref, _, _ := strings.Cut(part, `"`)
			todo = append(todo, ref)
		}
	}
	return found
}
