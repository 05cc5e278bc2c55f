// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/test/harness"
)

// foreign are kinds that a cluster has which runs what they are of.
var foreign = []string{"cert-manager.io", "monitoring.coreos.com", "kustomize.config.k8s.io"}

// TestManifests: the API server takes each whole manifest of the pages as it stands,
// and knows all its fields.
func TestManifests(t *testing.T) {
	ctrl.SetLogger(logr.Discard())
	plane, err := harness.StartControlPlane(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Stop(); err != nil {
			t.Error(err)
		}
	})
	all, taken := pages(t), 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		for _, b := range all[name].code() {
			if b.language != "yaml" || !strings.Contains(b.text, "apiVersion:") {
				continue
			}
			for docs := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(b.text), 4096); ; {
				object := &unstructured.Unstructured{}
				err := docs.Decode(object)
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Errorf("%s:%d: %v", name, b.line, err)
					break
				}
				if slices.Contains(foreign, object.GroupVersionKind().Group) {
					continue
				}
				taken++
				if object.GetNamespace() == "" {
					object.SetNamespace("default")
				}
				err = plane.Client.Create(t.Context(), object, client.DryRunAll, client.FieldValidation("Strict"))
				switch {
				case err == nil, apierrors.IsAlreadyExists(err):
				case apierrors.IsNotFound(err) && strings.Contains(err.Error(), "namespaces"):
				case meta.IsNoMatchError(err):
					t.Errorf("%s:%d: no such kind: %v", name, b.line, err)
				default:
					t.Errorf("%s:%d: %v", name, b.line, err)
				}
			}
		}
	}
	if taken < 12 {
		t.Errorf("%d manifests were found", taken)
	}
}

// TestJSON: blocks of JSON are.
func TestJSON(t *testing.T) {
	for name, p := range pages(t) {
		for _, b := range p.code() {
			if b.language == "json" && !json.Valid([]byte(b.text)) {
				t.Errorf("%s:%d: no JSON", name, b.line)
			}
		}
	}
}
