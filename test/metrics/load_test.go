// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard()) // it complains if nobody says
	os.Exit(m.Run())
}

// The runs of the load: of three each, one is refused twice. Those at the limited
// provider queue, those without a key are refused for good, and the long ones are
// cancelled.
const (
	plainRuns, limitedRuns, lockedRuns, longRuns = 60, 20, 5, 5
	allRuns                                      = plainRuns + limitedRuns + lockedRuns + longRuns
	retriedRuns                                  = plainRuns/3 + limitedRuns/3 + 1
	// titledRuns are the second of each ten.
	titledRuns                = plainRuns/10 + limitedRuns/10 + 1
	inputTokens, outputTokens = 5, 7
	// maxSeries bounds what a manager with four providers has of ours.
	maxSeries = 1200
	patience  = 3 * time.Minute
)

// answer is what the fake says: to "plain-003" a rate limit, an overload, an answer.
func answer(r chattest.Request) chattest.Response {
	kind, number, _ := strings.Cut(r.LastUser, "-")
	var n int
	_, _ = fmt.Sscanf(number, "%d", &n)
	good := chattest.Answer("a ", "good ", "answer").Usage(inputTokens, outputTokens)
	switch {
	case kind == "long":
		return chattest.Answer("it ", "never ", "ends").Pace(patience)
	case n%3 != 0:
		return good
	}
	return chattest.Sequence(chattest.OpenAIRateLimitResponse().RetryAfter(0), chattest.OpenAIServerErrorResponse(), good)(r)
}

// load is a manager with its provider.
type load struct {
	plane     *harness.ControlPlane
	namespace string
	fake      *chattest.Server
	scraped   string
	stream    string
}

func begin(t *testing.T) *load {
	t.Helper()
	plane, err := harness.StartControlPlane(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Stop(); err != nil {
			t.Error(err)
		}
	})
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}
	if err := plane.Client.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	if err := plane.AllowReplicas(t.Context(), ns.Name); err != nil {
		t.Fatal(err)
	}
	l := &load{plane: plane, namespace: ns.Name, fake: chattest.Start(t, answer)}
	locked := chattest.Start(t, nil, chattest.RequireKey("a-key-that-nobody-has"))
	l.provider(t, "fake", l.fake.URL(), nil)
	l.provider(t, "limited", l.fake.URL(), &v1alpha1.ProviderLimits{MaxConcurrentStreams: new(int32(1))})
	l.provider(t, "locked", locked.URL(), nil)
	dir := t.TempDir()
	binary, err := harness.BuildManager(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	address := free(t)
	logFile := filepath.Join(dir, "manager.log")
	p, err := harness.StartProcess(binary, plane.ManagerKubeconfig, ns.Name, "manager", logFile, "--metrics-bind-address", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Kill()
		if t.Failed() {
			raw, _ := os.ReadFile(logFile)
			t.Logf("%s", raw[max(0, len(raw)-8<<10):])
		}
	})
	l.scraped, l.stream = "http://"+address+"/metrics", p.Stream
	return l
}

func free(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (l *load) provider(t *testing.T, name, url string, limits *v1alpha1.ProviderLimits) {
	t.Helper()
	p := &v1alpha1.ChatProvider{
		ObjectMeta: metav1.ObjectMeta{Namespace: l.namespace, Name: name},
		Spec:       v1alpha1.ChatProviderSpec{Type: v1alpha1.ProviderOpenAI, BaseURL: url + "/v1", DefaultModel: "fake-1", Limits: limits},
	}
	if err := l.plane.Client.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// ask makes runs.
func (l *load) ask(t *testing.T, kind, provider string, n int) {
	t.Helper()
	for i := range n {
		name := fmt.Sprintf("%s-%03d", kind, i)
		run := &v1alpha1.ChatRun{
			ObjectMeta: metav1.ObjectMeta{Namespace: l.namespace, Name: name},
			Spec: v1alpha1.ChatRunSpec{
				ProviderRef: v1alpha1.ProviderReference{Name: provider}, Prompt: name,
				RetryPolicy: &v1alpha1.RetryPolicy{InitialDelayMs: new(int64(100)), MaxDelayMs: new(int64(500))},
			},
		}
		if i%10 != 1 {
			run.Spec.Title = &v1alpha1.Title{Policy: v1alpha1.TitleNone}
		}
		if err := l.plane.Client.Create(t.Context(), run); err != nil {
			t.Fatal(err)
		}
	}
}

// scrape takes in what the manager has, until it shows what is waited for.
func (l *load) scrape(t *testing.T, s *store, until func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ticker := time.NewTicker(250 * time.Millisecond)
	defer ticker.Stop()
	for {
		s.now = s.now.Add(15 * time.Second)
		if text, err := l.get(ctx); err == nil {
			if err := s.take(ctx, text); err != nil {
				t.Fatal(err)
			}
			if until() {
				return
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("what was waited for does not come, at %s", l.scraped)
		case <-ticker.C:
		}
	}
}

func (l *load) get(ctx context.Context) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, l.scraped, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s", response.Status)
	}
	return io.ReadAll(response.Body)
}

// TestUnderLoad runs the load, and looks at what every panel and alert makes of it.
func TestUnderLoad(t *testing.T) {
	l, s := begin(t), newStore(t)
	l.scrape(t, s, func() bool {
		return s.sum(t, "chatrun_lease_held") == 1 && s.sum(t, "count(chatrun_attempts_total)") == 3
	})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	l.ask(t, "long", "fake", longRuns)
	var reader sync.WaitGroup
	reader.Go(func() {
		_ = harness.Read(ctx, harness.StreamURL(l.stream, l.namespace, "long-000"), "", func(harness.Frame) {})
	})
	l.ask(t, "plain", "fake", plainRuns)
	l.ask(t, "limited", "limited", limitedRuns)
	l.ask(t, "locked", "locked", lockedRuns)
	l.scrape(t, s, func() bool {
		return s.sum(t, `sum(chatrun_runs{phase="Streaming"})`) == longRuns && s.sum(t, "sum(chatrun_readers)") == 1
	})
	under := s.sum(t, "sum(chatrun_attempts_running)")
	if under != longRuns {
		t.Errorf("%v attempts are under way, want %d", under, longRuns)
	}
	l.cancel(t, "long", longRuns)
	reader.Wait()
	l.scrape(t, s, func() bool {
		// A title may come after its run's end.
		return s.sum(t, `sum(chatrun_runs{phase=~"Succeeded|Failed|Cancelled"})`) == allRuns && s.sum(t, "sum(chatrun_titles_total)") >= titledRuns
	})
	l.equal(t, s)
	l.evaluate(t, s)
}

func (l *load) cancel(t *testing.T, kind string, n int) {
	t.Helper()
	for i := range n {
		run := &v1alpha1.ChatRun{ObjectMeta: metav1.ObjectMeta{Namespace: l.namespace, Name: fmt.Sprintf("%s-%03d", kind, i)}}
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"desiredState":"Cancelled"}}`))
		if err := l.plane.Client.Patch(t.Context(), run, patch); err != nil {
			t.Fatal(err)
		}
	}
}

// equal compares what was counted with what the provider saw, and what the objects
// say.
func (l *load) equal(t *testing.T, s *store) {
	t.Helper()
	total := l.fake.Ledger().Total(chattest.PurposeAnswer)
	good := plainRuns + limitedRuns
	for expr, want := range map[string]int{
		`sum(chatrun_attempts_total{provider!="team/locked"})`:                                       total.Count,
		`sum(chatrun_attempts_total)`:                                                                allRuns + 2*retriedRuns,
		`sum(chatrun_attempt_outcomes_total)`:                                                        allRuns + 2*retriedRuns,
		`sum(chatrun_attempt_outcomes_total{outcome="Succeeded"})`:                                   total.Completed,
		`sum(chatrun_attempt_outcomes_total{outcome="Cancelled"})`:                                   longRuns,
		`sum(chatrun_attempt_outcomes_total{outcome="AuthenticationFailed"})`:                        lockedRuns,
		`sum(chatrun_retries_total)`:                                                                 total.Refused,
		`sum(chatrun_retries_total{class="RateLimited"})`:                                            retriedRuns,
		`sum(chatrun_retries_total{class="ServerError"})`:                                            retriedRuns,
		`sum(chatrun_retry_delay_seconds_count)`:                                                     2 * retriedRuns,
		`sum(chatrun_tokens_total{direction="input"})`:                                               inputTokens * good,
		`sum(chatrun_tokens_total{direction="output"})`:                                              outputTokens * good,
		`sum(chatrun_time_to_first_token_seconds_count)`:                                             good + longRuns,
		`sum(chatrun_attempt_duration_seconds_count)`:                                                allRuns + 2*retriedRuns,
		`sum(chatrun_queue_duration_seconds_count)`:                                                  allRuns + 2*retriedRuns,
		`sum(chatrun_queue_duration_seconds_count{provider="team/limited"}) > bool 0`:                1,
		`sum(chatrun_queue_duration_seconds_sum{provider="team/limited"}) > bool 0`:                  1,
		`sum(chatrun_runs_finished_total{reason="Completed"})`:                                       good,
		`sum(chatrun_runs_finished_total)`:                                                           allRuns,
		`sum(chatrun_runs{phase="Succeeded"})`:                                                       good,
		`sum(chatrun_runs{phase="Failed"})`:                                                          lockedRuns,
		`sum(chatrun_runs{phase="Cancelled"})`:                                                       longRuns,
		`sum(chatrun_attempts_running)`:                                                              0,
		`sum(chatrun_readers)`:                                                                       0,
		`sum(chatrun_titles_total{result="Written"})`:                                                titledRuns,
		`sum(chatrun_takeovers_total) + sum(chatrun_fences_total)`:                                   0,
		`sum(chatrun_provider_places_held)`:                                                          0,
		`count(count by (provider) ({__name__=~"chatrun_.+",provider!=""}))`:                         3,
		`count({__name__=~"chatrun_.+",provider=~".*(plain|long|limited-|locked-).*"}) or vector(0)`: 0,
	} {
		if got := s.sum(t, expr); got != float64(want) {
			t.Errorf("%s is %v, want %d", expr, got, want)
		}
	}
	if n := len(s.series); n > maxSeries || n < 100 {
		t.Errorf("%d series for %d runs", n, allRuns)
	}
}

// evaluate asks each panel and each alert.
func (l *load) evaluate(t *testing.T, s *store) {
	t.Helper()
	board, rules := panels(t), alerts(t)
	seen := map[string]int{}
	for _, e := range append(board, rules...) {
		// Those that are there only in a bad hour are known from the page.
		if err := s.checkNames(e.expr); err != nil && !strings.Contains(e.expr, "chatrun_provider_gate_width") {
			t.Errorf("%s: %s: %v", e.title, e.expr, err)
			continue
		}
		v, err := s.ask(t.Context(), e.expr)
		if err != nil {
			t.Errorf("%s: %s: %v", e.title, e.expr, err)
		}
		seen[e.title] += len(v)
	}
	for _, title := range titles(board) {
		if seen[title] == 0 {
			t.Errorf("panel %q shows nothing", title)
		}
	}
	fires := map[string]bool{"ChatRunProviderRefusesKey": true}
	for _, a := range rules {
		if (seen[a.title] > 0) != fires[a.title] {
			t.Errorf("%s: %d alerts", a.title, seen[a.title])
		}
	}
}
