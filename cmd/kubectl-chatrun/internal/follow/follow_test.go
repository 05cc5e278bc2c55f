// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package follow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"chatrun.dev/operator/api/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var hello = Key{"team", "hello"}

// manager is a server that answers each request by the next of its answers, and the
// last one from then on.
type manager struct {
	answers []http.HandlerFunc

	mu       sync.Mutex
	requests []*http.Request
}

func (m *manager) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	answer := m.answers[min(len(m.requests), len(m.answers)-1)]
	m.requests = append(m.requests, r)
	m.mu.Unlock()
	answer(w, r)
}

// after are the cursors that were asked for, "" for the beginning.
func (m *manager) after() (ids []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.requests {
		ids = append(ids, r.Header.Get("Last-Event-ID"))
	}
	return ids
}

// frames answers with a stream that ends after them.
func frames(text ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, strings.Join(text, ""))
	}
}

// cut is the same, but the connection breaks within a frame.
func cut(text ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100000")
		_, _ = io.WriteString(w, strings.Join(text, "")+"id: 99\nevent: message_part\ndata: {\"te")
	}
}

func code(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// failure is an answer in Kubernetes' own form.
func failure(status int, reason, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","code":%d,"reason":%q,"message":%q}`, status, reason, message)
	}
}

func frame(id int, name stream.Name, data string) string {
	return fmt.Sprintf("id: %d\nevent: %s\ndata: %s\n\n", id, name, data)
}

func part(id int, text string) string {
	return frame(id, stream.EventMessagePart, fmt.Sprintf(`{"role":"assistant","text":%q}`, text))
}

func done(id int) string { return frame(id, stream.EventDone, `{"phase":"Succeeded","bytes":5}`) }

// door leads to a server of the test.
func door(t *testing.T, m http.Handler) Door {
	t.Helper()
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	d, err := NewAddress(&rest.Config{BearerToken: "secret"}, server.URL, Trust{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.client.CloseIdleConnections)
	return d
}

// told writes down the events, each in a few words.
func told(events *[]string) func(Event) {
	return func(event Event) {
		switch e := event.(type) {
		case stream.MessagePart:
			*events = append(*events, e.Text+e.Reasoning)
		case stream.Failed:
			*events = append(*events, "failed "+e.Reason)
		default:
			*events = append(*events, strings.TrimPrefix(fmt.Sprintf("%T", event), "stream."))
		}
	}
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s are %q, want %q", what, got, want)
	}
}

func TestCutConnectionGoesOnAfterTheLastEvent(t *testing.T) {
	m := &manager{answers: []http.HandlerFunc{
		cut(frame(1, stream.EventStatus, `{"phase":"Streaming"}`), part(2, "Hel")),
		frames(": keep-alive\n\n", part(3, "lo"), frame(4, "news", `{"of":"another version"}`)),
		frames(done(5), part(6, "nothing after the end")),
	}}
	var events []string
	f := &Follower{Doors: []Door{door(t, m)}}
	if err := f.Follow(t.Context(), hello, true, told(&events)); err != nil {
		t.Fatal(err)
	}
	expect(t, "the events", events, "Status", "Hel", "lo", "Done")
	expect(t, "the cursors", m.after(), "", "2", "4")
	for _, r := range m.requests {
		if r.URL.Path != "/v1/namespaces/team/chatruns/hello/stream" || r.URL.Query().Get("follow") != "true" || r.URL.Query().Get("wait") != early {
			t.Errorf("it asks for %s", r.URL)
		}
		if r.Header.Get("Authorization") != "" {
			t.Error("a token goes over plain HTTP")
		}
	}
}

func TestResetIsHandedOver(t *testing.T) {
	m := &manager{answers: []http.HandlerFunc{
		cut(part(1, "wrong")), frames(frame(2, stream.EventReset, `{"attempt":2}`), part(3, "right"), done(4)),
	}}
	var events []string
	if err := (&Follower{Doors: []Door{door(t, m)}}).Follow(t.Context(), hello, true, told(&events)); err != nil {
		t.Fatal(err)
	}
	expect(t, "the events", events, "wrong", "Reset", "right", "Done")
}

func TestWithoutFollowItEndsWithWhatStands(t *testing.T) {
	m := &manager{answers: []http.HandlerFunc{frames(part(1, "so far"))}}
	var events []string
	if err := (&Follower{Doors: []Door{door(t, m)}}).Follow(t.Context(), hello, false, told(&events)); err != nil {
		t.Fatal(err)
	}
	expect(t, "the events", events, "so far")
	expect(t, "the cursors", m.after(), "")
	if q := m.requests[0].URL.Query(); q.Get("follow") != "false" || q.Has("wait") {
		t.Errorf("it asks for %s", m.requests[0].URL)
	}
}

func TestNoContentIsTheEnd(t *testing.T) {
	m := &manager{answers: []http.HandlerFunc{cut(part(1, "x")), code(http.StatusNoContent, "")}}
	var events []string
	if err := (&Follower{Doors: []Door{door(t, m)}}).Follow(t.Context(), hello, true, told(&events)); err != nil {
		t.Fatal(err)
	}
	expect(t, "the cursors", m.after(), "", "1")
}

func TestRefusalsAreNotRetriedAndSayWhatToDo(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   []string
		// gone says that there is no such run.
		gone bool
	}{
		"401":             {failure(401, "Unauthorized", "who are you"), []string{"who are you (401 Unauthorized)", "--stream-token-file"}, false},
		"403":             {failure(403, "Forbidden", "you may not"), []string{"you may not", "chatrun-stream-reader", "kubectl -n team create rolebinding"}, false},
		"404 of a run":    {failure(404, "NotFound", "no run"), []string{`"hello" not found`}, true},
		"404 of a path":   {code(404, "404 page not found\n<html>"), []string{"404 Not Found 404 page not found\n", noDoor}, false},
		"a redirect":      {code(302, ""), []string{"302 Found\n", noDoor}, false},
		"405":             {code(405, ""), []string{"405 Method Not Allowed\n", noDoor}, false},
		"a page, bounded": {code(400, strings.Repeat("x", 2*maxError)), []string{"400 Bad Request " + strings.Repeat("x", maxWords) + "\n"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := &manager{answers: []http.HandlerFunc{c.answer}}
			err := (&Follower{Doors: []Door{door(t, m)}}).Follow(t.Context(), hello, true, func(Event) { t.Error("an event came") })
			if err == nil || apierrors.IsNotFound(err) != c.gone {
				t.Fatalf("the error is %v", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error is %q, without %q", err, want)
				}
			}
			expect(t, "the cursors", m.after(), "")
		})
	}
}

// TestTokenStaysWhereItIs: an answer cannot lead the token elsewhere.
func TestTokenStaysWhereItIs(t *testing.T) {
	asked := ""
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked += r.Header.Get("Authorization") + r.URL.Path }))
	defer other.Close()
	server := httptest.NewTLSServer(http.RedirectHandler(other.URL+"/x", http.StatusFound))
	defer server.Close()
	d, err := NewAddress(&rest.Config{BearerToken: "secret"}, server.URL, Trust{Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.client.CloseIdleConnections()
	err = (&Follower{Doors: []Door{d}}).Follow(t.Context(), hello, true, func(Event) { t.Error("an event came") })
	if _, is := errors.AsType[*RefusedError](err); !is || asked != "" {
		t.Errorf("error %v, asked elsewhere: %q", err, asked)
	}
}

// TestSilentTunnel: an API server that takes a port-forward and never answers holds
// nobody up.
func TestSilentTunnel(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/portforward") {
			<-release
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"kind":"PodList","apiVersion":"v1","items":[{"metadata":{"name":"m"},"status":{"conditions":[{"type":"Ready","status":"True"}]}}]}`)
	}))
	defer server.Close()
	defer close(release)
	tunnel, err := NewTunnel(&rest.Config{Host: server.URL, BearerToken: "secret"}, "chatrun-system", Trust{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := tunnel.Open(ctx, hello, "", true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestNextDoorIsTriedAfterARefusal(t *testing.T) {
	var said, events []string
	forbidden := &manager{answers: []http.HandlerFunc{failure(403, "Forbidden", "no")}}
	missing := &manager{answers: []http.HandlerFunc{code(404, "no such page")}}
	open := &manager{answers: []http.HandlerFunc{frames(part(1, "x"), done(2))}}
	f := &Follower{Doors: []Door{door(t, missing), door(t, open)}, Object: &Object{}, Say: func(s string) { said = append(said, s) }}
	if err := f.Follow(t.Context(), hello, true, told(&events)); err != nil {
		t.Fatal(err)
	}
	expect(t, "the events", events, "x", "Done")
	if len(said) != 1 || !strings.Contains(said[0], noDoor) {
		t.Errorf("it says %q", said)
	}
	f = &Follower{Doors: []Door{door(t, forbidden), door(t, open)}}
	refused, is := errors.AsType[*RefusedError](f.Follow(t.Context(), hello, true, told(&events)))
	if !is || !refused.Everywhere || len(open.after()) != 1 {
		t.Error("who is refused everywhere is sent to another door")
	}
}

// script is a door without a network, for time that is no real one.
type script struct {
	opened []time.Duration
	began  time.Time
	open   func(ctx context.Context, nth int) (*http.Response, error)
}

// Name implements Door.
func (*script) Name() string { return "the door" }

// Open implements Door.
func (s *script) Open(ctx context.Context, _ Key, _ string, _ bool) (*http.Response, error) {
	s.opened = append(s.opened, time.Since(s.began))
	return s.open(ctx, len(s.opened))
}

func body(text string) *http.Response {
	return &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Body: io.NopCloser(strings.NewReader(text))}
}

func TestPausesGrowAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{began: time.Now(), open: func(context.Context, int) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusServiceUnavailable, Status: "503 Service Unavailable", Body: io.NopCloser(strings.NewReader("busy"))}, nil
		}}
		err := (&Follower{Doors: []Door{s}}).Follow(t.Context(), hello, true, func(Event) {})
		if err == nil || !strings.Contains(err.Error(), "failed 8 times in a row: 503 Service Unavailable busy") || len(s.opened) != maxFailures {
			t.Fatalf("after %d tries the error is %v", len(s.opened), err)
		}
		least := 200 * time.Millisecond
		for i := 1; i < len(s.opened); i++ {
			if pause := s.opened[i] - s.opened[i-1]; pause < least || pause > least*6/5 {
				t.Errorf("the pause %d is %s, want %s and up to a fifth more", i, pause, least)
			}
			least = min(2*least, 5*time.Second)
		}
	})
}

func TestProgressForgetsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const connections = 3 * maxFailures
		s := &script{began: time.Now(), open: func(_ context.Context, nth int) (*http.Response, error) {
			if nth == connections {
				return body(done(nth)), nil
			}
			return body(part(nth, "x")), nil
		}}
		if err := (&Follower{Doors: []Door{s}}).Follow(t.Context(), hello, true, func(Event) {}); err != nil {
			t.Error(err)
		}
		if took := time.Since(s.began); took > connections*250*time.Millisecond {
			t.Errorf("it takes %s, as if all had failed", took)
		}
	})
}

func TestSilentConnectionIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{began: time.Now(), open: func(ctx context.Context, nth int) (*http.Response, error) {
			if nth == 2 {
				return body(done(2)), nil
			}
			r, w := io.Pipe()
			go func() { // a comment late, and then nothing until the connection is given up
				<-time.After(maxSilence - time.Second)
				_, _ = io.WriteString(w, ": keep-alive\n\n")
				<-ctx.Done()
				_ = w.CloseWithError(ctx.Err())
			}()
			return &http.Response{StatusCode: http.StatusOK, Body: r}, nil
		}}
		if err := (&Follower{Doors: []Door{s}}).Follow(t.Context(), hello, true, func(Event) {}); err != nil {
			t.Fatal(err)
		}
		if again := s.opened[1]; again < 2*maxSilence-time.Second || again > 2*maxSilence {
			t.Errorf("it is opened anew after %s", again)
		}
	})
}

func TestCancelEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		s := &script{began: time.Now(), open: func(context.Context, int) (*http.Response, error) { return nil, errors.New("no route") }}
		err := (&Follower{Doors: []Door{s}}).Follow(ctx, hello, true, func(Event) {})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(s.began) != 300*time.Millisecond {
			t.Errorf("it ends after %s with %v", time.Since(s.began), err)
		}
	})
}
