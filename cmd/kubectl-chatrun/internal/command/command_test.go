// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package command

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"chatrun.dev/operator/api/v1alpha1"
)

// A client of Kubernetes keeps its connections, which no test can close.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// cluster is an API server with some runs and providers. It keeps what is written.
type cluster struct {
	runs      []v1alpha1.ChatRun
	providers []string

	mu      sync.Mutex
	created []v1alpha1.ChatRun
	patched []string
	queries []string
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queries = append(c.queries, r.URL.RawQuery)
	w.Header().Set("Content-Type", "application/json")
	name := filepath.Base(r.URL.Path)
	switch {
	case r.Method == http.MethodPost:
		var run v1alpha1.ChatRun
		if json.NewDecoder(r.Body).Decode(&run) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c.created = append(c.created, run)
		if run.Name == "" {
			run.Name = run.GenerateName + "xyz"
		}
		answer(w, http.StatusCreated, run)
	case name == "chatproviders":
		list := v1alpha1.ChatProviderList{}
		for _, name := range c.providers {
			list.Items = append(list.Items, v1alpha1.ChatProvider{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "team"}})
		}
		answer(w, http.StatusOK, list)
	case name == "chatruns":
		answer(w, http.StatusOK, v1alpha1.ChatRunList{Items: c.runs})
	default:
		for _, run := range c.runs {
			if run.Name == name {
				if r.Method == http.MethodPatch {
					raw, _ := io.ReadAll(r.Body)
					c.patched = append(c.patched, name+" "+string(raw))
				}
				answer(w, http.StatusOK, run)
				return
			}
		}
		answer(w, http.StatusNotFound, metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: 404, Reason: metav1.StatusReasonNotFound,
			Message: "chatruns \"" + name + "\" not found", Details: &metav1.StatusDetails{Name: name, Kind: "chatruns"},
		})
	}
}

func answer(w http.ResponseWriter, code int, v any) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

// call runs the plugin.
func (c *cluster) call(t *testing.T, in string, args ...string) (code int, out, errs string) {
	t.Helper()
	server := httptest.NewServer(c)
	defer server.Close()
	config := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	code = Run(t.Context(), Options{
		IOStreams: genericiooptions.IOStreams{In: strings.NewReader(in), Out: &stdout, ErrOut: &stderr},
		Args:      append(args, "--kubeconfig", config, "--server", server.URL, "-n", "team"), Version: "v1",
	})
	return code, stdout.String(), stderr.String()
}

func former() v1alpha1.ChatRun {
	run := v1alpha1.ChatRun{ObjectMeta: metav1.ObjectMeta{
		Name: "hello", Namespace: "team", UID: "u", ResourceVersion: "5", CreationTimestamp: metav1.NewTime(time.Now().Add(-90 * time.Second)),
		Labels: map[string]string{"team": "a"}, Annotations: map[string]string{v1alpha1.AnnotationTitle: "A\x1b[2J title"},
	}}
	run.Spec = v1alpha1.ChatRunSpec{
		Prompt: "Why?", System: "Be brief", Model: "small", DesiredState: v1alpha1.DesiredCancelled, ActiveDeadlineSeconds: new(int64(60)),
		Parameters: &v1alpha1.Parameters{Temperature: "0.5", MaxOutputTokens: new(int32(10))}, RetryPolicy: &v1alpha1.RetryPolicy{MaxAttempts: new(int32(4))},
	}
	run.Spec.ProviderRef.Name = "openai"
	run.Status.Phase, run.Status.Model, run.Status.Attempt = v1alpha1.PhaseFailed, "small-1", new(int32(4))
	run.Status.LastErrorReason = "Overloaded"
	return run
}

// spec is the JSON of what was created, which shows what is left out as well.
func (c *cluster) spec(t *testing.T) string {
	t.Helper()
	if len(c.created) != 1 {
		t.Fatalf("%d runs are created", len(c.created))
	}
	raw, err := json.Marshal(c.created[0].Spec)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestNewRuns(t *testing.T) {
	for name, c := range map[string]struct {
		in             string
		args           []string
		name, generate string
		want           string
	}{
		"run": {
			"data\n", []string{"run", "Why?", "--model", "m", "--ttl", "90s", "--title", "NONE", "--max-attempts", "1"}, "", "chat-",
			`{"providerRef":{"name":"openai"},"prompt":"Why?\n\ndata","model":"m","retryPolicy":{"maxAttempts":1},"ttlSecondsAfterFinished":90,"title":{"policy":"None"}}`,
		},
		"retry": {
			"noise", []string{"retry", "hello"}, "", "hello-",
			`{"providerRef":{"name":"openai"},"prompt":"Why?","system":"Be brief","model":"small","parameters":{"temperature":"0.5","maxOutputTokens":10},"retryPolicy":{"maxAttempts":4},"activeDeadlineSeconds":60}`,
		},
		"retry otherwise": {
			"", []string{"retry", "hello", "--provider", "other", "--temperature", "1", "--deadline", "2m", "--name", "again"}, "again", "",
			`{"providerRef":{"name":"other"},"prompt":"Why?","system":"Be brief","model":"small","parameters":{"temperature":"1","maxOutputTokens":10},"retryPolicy":{"maxAttempts":4},"activeDeadlineSeconds":120}`,
		},
		"continue": {
			"", []string{"continue", "hello", "And then?"}, "", "hello-",
			`{"providerRef":{"name":"openai"},"prompt":"And then?","continueFrom":{"name":"hello"},"model":"small","parameters":{"temperature":"0.5","maxOutputTokens":10},"retryPolicy":{"maxAttempts":4}}`,
		},
		"continue from a pipe": {
			"More?\n", []string{"continue", "hello", "-", "--system", "Rhyme", "--model", "large", "--generate-name", "x-"}, "", "x-",
			`{"providerRef":{"name":"openai"},"prompt":"More?","continueFrom":{"name":"hello"},"system":"Rhyme","model":"large","parameters":{"temperature":"0.5","maxOutputTokens":10},"retryPolicy":{"maxAttempts":4}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := &cluster{runs: []v1alpha1.ChatRun{former()}, providers: []string{"openai"}}
			code, out, errs := k.call(t, c.in, append(c.args, "--wait=false", "-o", "name")...)
			if code != 0 || !strings.HasPrefix(out, "chatrun.chatrun.dev/"+c.name+c.generate) {
				t.Fatalf("it ends with %d: %q, %q", code, out, errs)
			}
			var got, want map[string]any
			if err := json.Unmarshal([]byte(k.spec(t)), &got); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(c.want), &want); err != nil {
				t.Fatal(err)
			}
			a, _ := json.Marshal(got)
			b, _ := json.Marshal(want)
			if !bytes.Equal(a, b) {
				t.Errorf("the spec is\n%s, want\n%s", a, b)
			}
			made := k.created[0]
			if made.Name != c.name || made.GenerateName != c.generate || made.UID != "" || made.ResourceVersion != "" || len(made.Annotations) > 0 {
				t.Errorf("the run is %+v", made.ObjectMeta)
			}
		})
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for name, c := range map[string]struct {
		args      []string
		providers []string
		want      string
	}{
		"no provider":       {[]string{"run", "Why?"}, nil, "there is no ChatProvider in the namespace team"},
		"which provider":    {[]string{"run", "Why?"}, []string{"a", "b"}, "--provider: in the namespace team there is a, b"},
		"unknown provider":  {[]string{"run", "Why?", "--provider", "c"}, []string{"a"}, `there is no ChatProvider "c"`},
		"unknown run":       {[]string{"retry", "nix"}, nil, "kubectl chatrun list -A"},
		"unknown title":     {[]string{"run", "Why?", "--title", "x"}, []string{"a"}, "it is generate or none"},
		"half a second":     {[]string{"run", "Why?", "--ttl", "1500ms"}, []string{"a"}, "whole seconds"},
		"negative deadline": {[]string{"run", "Why?", "--deadline", "-5s"}, []string{"a"}, "whole seconds"},
		"unknown phase":     {[]string{"list", "--phase", "x"}, nil, "it is one of Pending, Streaming"},
		"unknown flag":      {[]string{"run", "--nix"}, nil, "See 'kubectl chatrun run --help'"},
	} {
		t.Run(name, func(t *testing.T) {
			k := &cluster{providers: c.providers}
			code, out, errs := k.call(t, "", c.args...)
			if code != ExitError || out != "" || !strings.HasPrefix(errs, "Error: ") || !strings.Contains(errs, c.want) || len(k.created) > 0 {
				t.Errorf("it ends with %d: %q, %q", code, out, errs)
			}
		})
	}
}

func TestList(t *testing.T) {
	newer := v1alpha1.ChatRun{ObjectMeta: metav1.ObjectMeta{Name: "newer", Namespace: "team", CreationTimestamp: metav1.NewTime(time.Now())}}
	newer.Status.Phase = v1alpha1.PhasePending
	for name, c := range map[string]struct {
		args  []string
		query string
		want  string
	}{
		"table": {nil, "", `NAME PROVIDER MODEL PHASE ATTEMPT RETRY LAST-ERROR TOKENS RATE AGE
newer Pending 0s
hello openai small-1 Failed 4 Overloaded 90s`},
		"wide": {[]string{"-o", "wide"}, "", `NAME PROVIDER MODEL PHASE ATTEMPT RETRY LAST-ERROR TOKENS RATE AGE REASON TITLE
newer Pending 0s
hello openai small-1 Failed 4 Overloaded 90s A^[[2J title`},
		"all": {[]string{"-A"}, "", `NAMESPACE NAME PROVIDER MODEL PHASE ATTEMPT RETRY LAST-ERROR TOKENS RATE AGE
team newer Pending 0s
team hello openai small-1 Failed 4 Overloaded 90s`},
		"names":  {[]string{"-o", "name"}, "", "chatrun.chatrun.dev/newer\nchatrun.chatrun.dev/hello"},
		"chosen": {[]string{"-o", "name", "--phase", "FAILED", "-l", "team=a"}, "fieldSelector=status.phase%3DFailed&labelSelector=team%3Da&limit=500", "chatrun.chatrun.dev/newer\nchatrun.chatrun.dev/hello"},
	} {
		t.Run(name, func(t *testing.T) {
			k := &cluster{runs: []v1alpha1.ChatRun{former(), newer}}
			code, out, errs := k.call(t, "", append([]string{"list"}, c.args...)...)
			lines := strings.Split(strings.TrimSpace(out), "\n")
			for i, line := range lines {
				lines[i] = strings.ReplaceAll(strings.Join(strings.Fields(line), " "), " 1s", " 0s")
			}
			if got := strings.ReplaceAll(strings.Join(lines, "\n"), "91s", "90s"); code != 0 || got != c.want {
				t.Errorf("it ends with %d, %q:\n%s", code, errs, got)
			}
			if c.query != "" && !strings.HasPrefix(k.queries[0], c.query) {
				t.Errorf("it asks %q", k.queries)
			}
		})
	}
	code, out, errs := (&cluster{}).call(t, "", "list")
	if code != 0 || out != "" || !strings.Contains(errs, "There are none here") {
		t.Errorf("an empty list ends with %d: %q, %q", code, out, errs)
	}
}

func TestStatesAreSetOfEachName(t *testing.T) {
	k := &cluster{runs: []v1alpha1.ChatRun{former()}}
	code, out, errs := k.call(t, "", "suspend", "nix", "hello")
	if code != ExitError || !strings.Contains(errs, `"nix" not found`) || out != "chatrun.chatrun.dev/hello suspended\n" {
		t.Errorf("it ends with %d: %q, %q", code, out, errs)
	}
	if len(k.patched) != 1 || k.patched[0] != `hello {"spec":{"desiredState":"Suspended"}}` {
		t.Errorf("it writes %q", k.patched)
	}
}
