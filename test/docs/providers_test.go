// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
)

// ask lets a run ask each provider of a page, with the fake one behind its address, and
// looks at what reached that: the page's model, its headers, and the key of its Secret.
func (w *world) ask(t *testing.T, p *page) {
	w.clear(t)
	w.start(t, "local")
	defer w.stop()
	titles := chattest.Titles(chattest.Always(chattest.Answer("A Title")))
	secure, open := chattest.Start(t, everyOther, titles, chattest.TLS()), chattest.Start(t, everyOther, titles)
	asked := 0
	for _, b := range p.code() {
		provider := &v1alpha1.ChatProvider{}
		if b.language != "yaml" || !strings.Contains(b.text, "kind: ChatProvider") {
			continue
		}
		if err := yaml.UnmarshalStrict([]byte(b.text), provider); err != nil {
			t.Errorf("%s:%d: %v", p.name, b.line, err)
			continue
		}
		asked++
		fake, want := w.provider, key
		switch {
		case provider.Spec.CABundle != "":
			fake, want, provider.Spec.CABundle = secure, "", secure.CABundle()
		case provider.Spec.Credentials == nil:
			fake, want = open, ""
		}
		path := "/v1"
		if provider.Spec.Type == v1alpha1.ProviderAnthropic {
			path = ""
		}
		if provider.Spec.BaseURL != "" {
			base, err := url.Parse(provider.Spec.BaseURL)
			if err != nil {
				t.Fatal(err)
			}
			path = base.Path
		}
		provider.Spec.BaseURL = fake.URL() + path
		secret := ""
		if c := provider.Spec.Credentials; c != nil {
			secret = "kubectl create secret generic '" + c.SecretKeyRef.Name + "' --from-literal='" + c.SecretKeyRef.Key + "=" + key + "' &&"
		}
		raw, err := yaml.Marshal(provider)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(w.logs, provider.Name+".yaml")
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		question := "Are you " + provider.Name + "?"
		phase := w.must(t, secret+`
			kubectl apply --validate=strict -f '`+file+`' &&
			sed 's/name: hello/name: ask-`+provider.Name+`/; s/name: openai/name: `+provider.Name+`/; s/prompt: .*/prompt: `+question+`/' \
				config/samples/chatrun_hello.yaml | kubectl apply -f - &&
			kubectl wait --for=condition=Finished chr/ask-`+provider.Name+` --timeout=1m &&
			kubectl get chr ask-`+provider.Name+` -o jsonpath='phase {.status.phase}, {.status.conditions[*].message}'`)
		if !strings.Contains(phase, "phase Succeeded") {
			t.Errorf("%s:%d: %s", p.name, b.line, phase)
		}
		requests := fake.Ledger().Requests()
		at := slices.IndexFunc(requests, func(e chattest.Entry) bool { return e.Request.Stream && e.Request.LastUser == question })
		if at < 0 {
			t.Errorf("%s:%d: %s was not asked", p.name, b.line, provider.Name)
			continue
		}
		request := requests[at].Request
		if request.Model != provider.Spec.DefaultModel || request.APIKey != want || !strings.HasPrefix(request.Path, path+"/") {
			t.Errorf("%s:%d: asked was %q at %s, with the right key: %v", p.name, b.line, request.Model, request.Path, request.APIKey == want)
		}
		for _, h := range provider.Spec.Headers {
			if got := request.Header.Get(h.Name); got != h.Value {
				t.Errorf("%s:%d: the header %s is %q", p.name, b.line, h.Name, got)
			}
		}
	}
	if asked < 8 {
		t.Errorf("%s: %d providers were found", p.name, asked)
	}
}
