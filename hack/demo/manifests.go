// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// parseManifests reads a stream of YAML documents.
func parseManifests(text string) ([]*unstructured.Unstructured, error) {
	decoder := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(text), len(text)+1)
	var objects []*unstructured.Unstructured
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading manifests: %w", err)
		}
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
}

// renderManifests is the reverse of parseManifests.
func renderManifests(objects []*unstructured.Unstructured) (string, error) {
	var text bytes.Buffer
	for _, object := range objects {
		document, err := yaml.Marshal(object)
		if err != nil {
			return "", fmt.Errorf("writing manifests: %w", err)
		}
		text.WriteString("---\n")
		text.Write(document)
	}
	return text.String(), nil
}

// without leaves out the objects of a kind.
func without(objects []*unstructured.Unstructured, kind string) []*unstructured.Unstructured {
	return slices.DeleteFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == kind })
}

// tokenConfig is a kubeconfig that authenticates with a bearer token.
func tokenConfig(server string, ca []byte, namespace, token string) []byte {
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: manager
clusters:
- name: demo
  cluster:
    server: %q
    certificate-authority-data: %s
users:
- name: manager
  user:
    token: %q
contexts:
- name: manager
  context:
    cluster: demo
    user: manager
    namespace: %q
`, server, base64.StdEncoding.EncodeToString(ca), token, namespace)
}

// secret is a Secret with one key.
func secret(name, key, value string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1",
		"kind":       "Secret",
		"metadata":   map[string]any{"name": name},
		"stringData": map[string]any{key: value},
	}}
}
