// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

const runs = "chatruns.chatrun.dev"

// bases are the CRDs of this checkout.
func bases(t *testing.T) map[string]*apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	all, err := read(filepath.Join("..", "..", "config", "crd", "bases"))
	if err != nil || all[runs] == nil {
		t.Fatalf("%d CRDs, %v", len(all), err)
	}
	return all
}

// at returns a part of the first version's schema, by its path.
func at(t *testing.T, crd *apiextensionsv1.CustomResourceDefinition, path string) *apiextensionsv1.JSONSchemaProps {
	t.Helper()
	s := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	for name := range strings.SplitSeq(path, ".") {
		if path == "" {
			break
		}
		items := strings.HasSuffix(name, "[]")
		next, there := s.Properties[strings.TrimSuffix(name, "[]")]
		if !there {
			t.Fatalf("no %s in %s", name, path)
		}
		if s = &next; items {
			s = next.Items.Schema
		}
	}
	return s
}

// set changes a property in place: the maps of a schema hold values.
func set(t *testing.T, crd *apiextensionsv1.CustomResourceDefinition, parent, name string, change func(*apiextensionsv1.JSONSchemaProps)) {
	t.Helper()
	in := at(t, crd, parent)
	p, there := in.Properties[name]
	if !there {
		t.Fatalf("no %s in %q", name, parent)
	}
	change(&p)
	in.Properties[name] = p
}

type crd = apiextensionsv1.CustomResourceDefinition
type schema = apiextensionsv1.JSONSchemaProps

// TestWhatBreaks: each of these would leave somebody with an object or a manifest that
// is not valid any more, or means something else.
func TestWhatBreaks(t *testing.T) {
	for want, change := range map[string]func(*testing.T, *crd){
		".spec.title: the field is gone":     func(t *testing.T, c *crd) { delete(at(t, c, "spec").Properties, "title") },
		".status.attempt: the field is gone": func(t *testing.T, c *crd) { delete(at(t, c, "status").Properties, "attempt") },
		".spec.model: it is required": func(t *testing.T, c *crd) {
			set(t, c, "", "spec", func(s *schema) { s.Required = append(s.Required, "model") })
		},
		".spec.retryPolicy.maxAttempts: maximum": func(t *testing.T, c *crd) {
			set(t, c, "spec.retryPolicy", "maxAttempts", func(s *schema) { s.Maximum = new(float64(24)) })
		},
		".spec.retryPolicy.maxAttempts: minimum": func(t *testing.T, c *crd) {
			set(t, c, "spec.retryPolicy", "maxAttempts", func(s *schema) { s.Minimum = new(float64(1)) })
		},
		".spec.prompt: maxLength is narrower": func(t *testing.T, c *crd) {
			set(t, c, "spec", "prompt", func(s *schema) { s.MaxLength = new(*s.MaxLength - 1) })
		},
		".spec.prompt: minLength is narrower": func(t *testing.T, c *crd) {
			set(t, c, "spec", "prompt", func(s *schema) { s.MinLength = new(int64(7)) })
		},
		".spec.messages: maxItems is narrower": func(t *testing.T, c *crd) {
			set(t, c, "spec", "messages", func(s *schema) { s.MaxItems = new(*s.MaxItems - 1) })
		},
		".spec.desiredState: the value": func(t *testing.T, c *crd) { set(t, c, "spec", "desiredState", func(s *schema) { s.Enum = s.Enum[1:] }) },
		".spec.model: only some values": func(t *testing.T, c *crd) {
			set(t, c, "spec", "model", func(s *schema) { s.Enum = []apiextensionsv1.JSON{{Raw: []byte(`"m"`)}} })
		},
		".spec.model: it was string":   func(t *testing.T, c *crd) { set(t, c, "spec", "model", func(s *schema) { s.Type = "integer" }) },
		".spec.model: another pattern": func(t *testing.T, c *crd) { set(t, c, "spec", "model", func(s *schema) { s.Pattern = "^gpt" }) },
		".spec.model: a new rule": func(t *testing.T, c *crd) {
			set(t, c, "spec", "model", func(s *schema) { s.XValidations[0].Rule = "self != ''" })
		},
		".spec: a new rule": func(t *testing.T, c *crd) {
			set(t, c, "", "spec", func(s *schema) {
				s.XValidations = append(s.XValidations, apiextensionsv1.ValidationRule{Rule: "false"})
			})
		},
		".status: its default": func(t *testing.T, c *crd) { set(t, c, "", "status", func(s *schema) { s.Default = nil }) },
		".spec.retryPolicy: its default": func(t *testing.T, c *crd) {
			set(t, c, "spec", "retryPolicy", func(s *schema) { s.Default = &apiextensionsv1.JSON{Raw: []byte(`{}`)} })
		},
		".status.conditions: it merges": func(t *testing.T, c *crd) {
			set(t, c, "status", "conditions", func(s *schema) { s.XListType = new("atomic") })
		},
		"[].content: maxLength is narrower": func(t *testing.T, c *crd) {
			at(t, c, "spec.messages[]")
			set(t, c, "spec.messages[]", "content", func(s *schema) { s.MaxLength = new(int64(1)) })
		},
		"v1alpha1: it is not served":              func(_ *testing.T, c *crd) { c.Spec.Versions[0].Served = false },
		"v1alpha1: objects are not stored":        func(_ *testing.T, c *crd) { c.Spec.Versions[0].Storage = false },
		"version v1alpha1 is gone":                func(_ *testing.T, c *crd) { c.Spec.Versions[0].Name = "v1beta1" },
		".status.phase can no longer be selected": func(_ *testing.T, c *crd) { c.Spec.Versions[0].SelectableFields = nil },
		"a subresource is gone":                   func(_ *testing.T, c *crd) { c.Spec.Versions[0].Subresources = nil },
		`the short name "chr" is gone`:            func(_ *testing.T, c *crd) { c.Spec.Names.ShortNames = nil },
		`the category "chat" is gone`:             func(_ *testing.T, c *crd) { c.Spec.Names.Categories = nil },
		"its group, scope or names":               func(_ *testing.T, c *crd) { c.Spec.Scope = apiextensionsv1.ClusterScoped },
	} {
		t.Run(want, func(t *testing.T) {
			before, after := bases(t)[runs], bases(t)[runs]
			if want == ".spec.retryPolicy: its default" {
				set(t, before, "spec", "retryPolicy", func(s *schema) { s.Default = &apiextensionsv1.JSON{Raw: []byte(`{"maxAttempts":25}`)} })
			}
			change(t, after)
			got := compare(before, after)
			if len(got) == 0 || !strings.Contains(fmt.Sprint(got), want) {
				t.Errorf("found %q", got)
			}
		})
	}
}

// TestWhatDoesNotBreak: what anybody may add.
func TestWhatDoesNotBreak(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *crd){
		"nothing": func(*testing.T, *crd) {},
		"a new field": func(t *testing.T, c *crd) {
			at(t, c, "spec").Properties["new"] = schema{Type: "object", Required: []string{"in"}, Properties: map[string]schema{"in": {Type: "string"}}}
		},
		"a new field that is required and has a default": func(t *testing.T, c *crd) {
			set(t, c, "spec", "retryPolicy", func(s *schema) {
				s.Properties["new"] = schema{Type: "string", Default: &apiextensionsv1.JSON{Raw: []byte(`"x"`)}}
				s.Required = append(s.Required, "new")
			})
		},
		"words": func(t *testing.T, c *crd) {
			set(t, c, "spec", "model", func(s *schema) { s.Description = "Another one." })
		},
		"a rule's words": func(t *testing.T, c *crd) {
			set(t, c, "spec", "model", func(s *schema) { s.XValidations[0].Message = "no" })
		},
		"a rule less": func(t *testing.T, c *crd) { set(t, c, "spec", "model", func(s *schema) { s.XValidations = nil }) },
		"a wider bound": func(t *testing.T, c *crd) {
			set(t, c, "spec", "prompt", func(s *schema) { s.MaxLength = new(*s.MaxLength + 1) })
		},
		"a bound less": func(t *testing.T, c *crd) { set(t, c, "spec", "prompt", func(s *schema) { s.MaxLength = nil }) },
		"one value more": func(t *testing.T, c *crd) {
			set(t, c, "spec", "desiredState", func(s *schema) { s.Enum = append(s.Enum, apiextensionsv1.JSON{Raw: []byte(`"Held"`)}) })
		},
		"another version": func(_ *testing.T, c *crd) {
			v := c.Spec.Versions[0]
			v.Name, v.Storage = "v1beta1", false
			c.Spec.Versions = append(c.Spec.Versions, v)
		},
		"a column": func(_ *testing.T, c *crd) { c.Spec.Versions[0].AdditionalPrinterColumns = nil },
	} {
		t.Run(name, func(t *testing.T) {
			after := bases(t)[runs]
			change(t, after)
			if got := compare(bases(t)[runs], after); len(got) != 0 {
				t.Errorf("found %q", got)
			}
		})
	}
}

// TestRun: what the command says, of directories.
func TestRun(t *testing.T) {
	present := filepath.Join("..", "..", "config", "crd", "bases")
	if err := run([]string{"released", present}); err != nil {
		t.Errorf("this checkout breaks the last release's promises: %v", err)
	}
	one := t.TempDir()
	raw, err := yaml.Marshal(bases(t)[runs])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(one, "runs.yaml"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"chatproviders.chatrun.dev: the CRD is gone": {present, one},
		"holds no CRD": {t.TempDir(), present},
		"say which":    {present},
	} {
		if err := run(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}
