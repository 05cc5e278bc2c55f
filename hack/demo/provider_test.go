// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const samples = `
kind: ChatProvider
apiVersion: chatrun.dev/v1alpha1
metadata: {name: openai}
spec: {type: OpenAI, defaultModel: m}
---
kind: ChatProvider
apiVersion: chatrun.dev/v1alpha1
metadata: {name: anthropic}
spec: {type: Anthropic, defaultModel: m}
---
kind: ChatRun
apiVersion: chatrun.dev/v1alpha1
metadata: {name: hello}
spec: {providerRef: {name: openai}, prompt: Hi}
---
kind: ChatRun
apiVersion: chatrun.dev/v1alpha1
metadata: {name: conversation}
spec: {providerRef: {name: anthropic}, prompt: Hi}
`

// adapted runs the samples through a provider chosen by an environment.
func adapted(t *testing.T, env map[string]string) (provider, map[string]*unstructured.Unstructured) {
	t.Helper()
	p, err := chooseProvider(func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	parsed, err := parseManifests(samples)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := p.objects(parsed)
	if err != nil {
		t.Fatal(err)
	}
	text, err := renderManifests(objects)
	if err != nil {
		t.Fatal(err)
	}
	if parsed, err = parseManifests(text); err != nil {
		t.Fatal(err)
	}
	named := map[string]*unstructured.Unstructured{}
	for _, o := range parsed {
		named[o.GetKind()+"/"+o.GetName()] = o
	}
	return p, named
}

// field reads a string of an object, "" if it is not there.
func field(t *testing.T, o *unstructured.Unstructured, path ...string) string {
	t.Helper()
	if o == nil {
		t.Fatalf("no object to read %v of", path)
	}
	s, _, err := unstructured.NestedString(o.Object, path...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSamplesForTheFake(t *testing.T) {
	p, objects := adapted(t, nil)
	if p.real() || len(objects) != 6 {
		t.Fatalf("real %t, %d objects", p.real(), len(objects))
	}
	for name, want := range map[string]string{"openai": p.fake.URL() + "/v1", "anthropic": p.fake.URL()} {
		if got := field(t, objects["ChatProvider/"+name], "spec", "baseURL"); got != want {
			t.Errorf("baseURL of %s: %q, want %q", name, got, want)
		}
		if got := field(t, objects["Secret/"+name], "stringData", "api-key"); got != fakeKey {
			t.Errorf("key of %s: %q", name, got)
		}
	}
}

func TestSamplesForARealProvider(t *testing.T) {
	p, objects := adapted(t, map[string]string{
		"ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": "http://gateway.example", "CHATRUN_MODEL": "small",
	})
	if !p.real() || len(objects) != 3 {
		t.Fatalf("real %t, objects %v", p.real(), objects)
	}
	provider := objects["ChatProvider/anthropic"]
	if got := field(t, provider, "spec", "baseURL"); got != "http://gateway.example" {
		t.Errorf("baseURL %q", got)
	}
	if got := field(t, provider, "spec", "defaultModel"); got != "small" {
		t.Errorf("defaultModel %q", got)
	}
	if got := field(t, objects["ChatRun/hello"], "spec", "providerRef", "name"); got != "anthropic" {
		t.Errorf("providerRef %q", got)
	}
	if got := field(t, objects["Secret/anthropic"], "stringData", "api-key"); got != "k" {
		t.Errorf("key %q", got)
	}
}

func TestSamplesForOpenAIKeepTheirModel(t *testing.T) {
	_, objects := adapted(t, map[string]string{"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "other"})
	provider := objects["ChatProvider/openai"]
	if base, model := field(t, provider, "spec", "baseURL"), field(t, provider, "spec", "defaultModel"); base != "" || model != "m" {
		t.Errorf("baseURL %q, defaultModel %q", base, model)
	}
}

func TestWithout(t *testing.T) {
	objects, err := parseManifests("kind: Deployment\napiVersion: apps/v1\n---\nkind: Role\napiVersion: v1\n---\n")
	if err != nil {
		t.Fatal(err)
	}
	if rest := without(objects, "Deployment"); len(rest) != 1 || rest[0].GetKind() != "Role" {
		t.Errorf("%v", rest)
	}
}
