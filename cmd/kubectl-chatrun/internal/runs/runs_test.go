// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package runs

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"chatrun.dev/operator/api/v1alpha1"
)

// server answers by method and path, and keeps the last request.
type server struct {
	answers map[string]string
	asked   *http.Request
	body    string
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	s.asked, s.body = r, string(raw)
	w.Header().Set("Content-Type", "application/json")
	answer, known := s.answers[r.Method+" "+r.URL.Path]
	if !known {
		w.WriteHeader(http.StatusForbidden)
		answer = `{"kind":"Status","apiVersion":"v1","status":"Failure","code":403,"reason":"Forbidden","message":"no"}`
	}
	_, _ = io.WriteString(w, answer)
}

func (s *server) client(t *testing.T) *Client {
	t.Helper()
	at := httptest.NewServer(s)
	t.Cleanup(at.Close)
	client, err := New(&rest.Config{Host: at.URL})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestAnswerIsReadWhereItIsKept(t *testing.T) {
	s := &server{answers: map[string]string{
		"GET /api/v1/namespaces/team/configmaps/kept": fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","data":{%q:"Hello"}}`, v1alpha1.StoredText),
		"GET /api/v1/namespaces/team/secrets/kept":    fmt.Sprintf(`{"kind":"Secret","apiVersion":"v1","data":{%q:"SGVsbG8="}}`, v1alpha1.StoredText),
	}}
	client := s.client(t)
	for name, c := range map[string]struct {
		out       *v1alpha1.Output
		text      string
		whole     bool
		forbidden bool
	}{
		"none":             {nil, "", true, false},
		"in the status":    {&v1alpha1.Output{Text: "Grüße", Bytes: new(int64(7))}, "Grüße", true, false},
		"cut":              {&v1alpha1.Output{Text: "Hel", Bytes: new(int64(5))}, "Hel", false, false},
		"of no known size": {&v1alpha1.Output{Text: "Hel"}, "Hel", true, false},
		"in a ConfigMap":   {&v1alpha1.Output{Text: "Hel", Bytes: new(int64(5)), ConfigMapName: "kept"}, "Hello", true, false},
		"cut there too":    {&v1alpha1.Output{Text: "Hel", Bytes: new(int64(9)), ConfigMapName: "kept"}, "Hello", false, false},
		"in a Secret":      {&v1alpha1.Output{Bytes: new(int64(5)), SecretName: "kept"}, "Hello", true, false},
		"out of sight":     {&v1alpha1.Output{Text: "Hel", Bytes: new(int64(5)), SecretName: "hidden"}, "Hel", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			run := &v1alpha1.ChatRun{ObjectMeta: metav1.ObjectMeta{Namespace: "team"}}
			run.Status.Output = c.out
			text, whole, err := client.Answer(t.Context(), run)
			if text != c.text || whole != c.whole || apierrors.IsForbidden(err) != c.forbidden || (err != nil && !c.forbidden) {
				t.Errorf("it is %q, whole %t, %v", text, whole, err)
			}
		})
	}
}

func TestDesireChangesOneField(t *testing.T) {
	s := &server{answers: map[string]string{
		"PATCH /apis/chatrun.dev/v1alpha1/namespaces/team/chatruns/hello": `{"metadata":{"name":"hello"},"spec":{"desiredState":"Cancelled"}}`,
	}}
	run, err := s.client(t).Desire(t.Context(), "team", "hello", v1alpha1.DesiredCancelled)
	if err != nil || run.Spec.DesiredState != v1alpha1.DesiredCancelled {
		t.Fatalf("the run is %v, %v", run, err)
	}
	if s.body != `{"spec":{"desiredState":"Cancelled"}}` || s.asked.URL.RawQuery != "fieldManager="+Manager ||
		s.asked.Header.Get("Content-Type") != "application/merge-patch+json" {
		t.Errorf("it asks %s %s: %s", s.asked.URL, s.asked.Header, s.body)
	}
}

func TestListsAreOfANamespaceOrOfAll(t *testing.T) {
	s := &server{answers: map[string]string{
		"GET /apis/chatrun.dev/v1alpha1/chatruns":                      `{"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}`,
		"GET /apis/chatrun.dev/v1alpha1/namespaces/team/chatproviders": `{"items":[{"metadata":{"name":"p"}}]}`,
	}}
	client := s.client(t)
	all, err := client.Runs("").List(t.Context(), metav1.ListOptions{LabelSelector: "team=a", Limit: 5})
	if err != nil || len(all.Items) != 2 || s.asked.URL.RawQuery != "labelSelector=team%3Da&limit=5" {
		t.Fatalf("%s gives %v, %v", s.asked.URL, all, err)
	}
	if err := Name(all); err != nil {
		t.Fatal(err)
	}
	if kind := all.Items[1].GroupVersionKind().String(); !strings.HasSuffix(kind, "chatrun.dev/v1alpha1, Kind=ChatRun") {
		t.Errorf("an item of the list is a %s", kind)
	}
	providers, err := client.Providers("team").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(providers.Items) != 1 || providers.Items[0].Name != "p" {
		t.Errorf("the providers are %v, %v", providers, err)
	}
}
