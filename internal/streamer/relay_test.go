// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// replica is one of several, in a process with the others.
type replica struct {
	hub     *Hub
	source  *shelf
	handler *Handler
	relay   http.Handler
}

// replicas are Peers by name. Their connections are pipes.
type replicas struct {
	mu    sync.Mutex
	all   map[string]*replica
	opens []string // owner and cursor of each Open
	// down is what Open fails with; nil if it works.
	down error
	// cut, if above 0, ends each connection after so many bytes.
	cut int
	// open are the connections of this moment.
	open int
}

func newReplicas(names ...string) *replicas {
	r := &replicas{all: map[string]*replica{}}
	for _, name := range names {
		one := &replica{hub: NewHub(), source: &shelf{view: pendingView()}}
		one.handler = NewHandler(one.hub, one.source, Anyone)
		one.handler.Peers = r
		one.relay = one.handler.Relay(Anyone)
		r.all[name] = one
	}
	return r
}

func (r *replicas) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func (r *replicas) opened() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.opens...)
}

func (r *replicas) connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open
}

// owned tells all replicas whose run it is.
func (r *replicas) owned(owner string, v View) {
	for name, one := range r.all {
		mine := v
		if !v.Finished && name != owner {
			mine.Owner = owner
		}
		one.source.put(mine, nil)
	}
}

// Open implements Peers.
func (r *replicas) Open(ctx context.Context, owner string, run Run, after string) (io.ReadCloser, error) {
	r.mu.Lock()
	r.opens = append(r.opens, owner+" "+after)
	peer, down, cut := r.all[owner], r.down, r.cut
	r.mu.Unlock()
	if down != nil {
		return nil, down
	}
	if peer == nil {
		return nil, errors.New("nobody is there")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, RelayPath+run.Namespace+"/chatruns/"+run.Name+"?uid="+run.UID, nil)
	if err != nil {
		return nil, err
	}
	if after != "" {
		request.Header.Set("Last-Event-ID", after)
	}
	from, to := io.Pipe()
	w := &pipeWriter{header: http.Header{}, to: to, code: make(chan int, 1), cut: cut}
	r.set(func() { r.open++ })
	go func() {
		defer r.set(func() { r.open-- })
		peer.relay.ServeHTTP(w, request)
		_ = to.Close()
	}()
	select {
	case code := <-w.code:
		if code == http.StatusOK {
			return from, nil
		}
		_ = from.Close()
		if code == http.StatusMisdirectedRequest || code == http.StatusNotFound {
			return nil, ErrNotOwner
		}
		return nil, fmt.Errorf("code %d", code)
	case <-ctx.Done():
		_ = from.Close()
		return nil, ctx.Err()
	}
}

// pipeWriter is a ResponseWriter into a pipe.
type pipeWriter struct {
	header http.Header
	to     *io.PipeWriter
	code   chan int
	cut    int
	wrote  int
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(code int) { w.code <- code }

func (w *pipeWriter) Flush() {}

func (w *pipeWriter) Write(b []byte) (int, error) {
	if w.cut > 0 && w.wrote+len(b) > w.cut {
		n, _ := w.to.Write(b[:w.cut-w.wrote])
		_ = w.to.CloseWithError(io.ErrUnexpectedEOF)
		return n, io.ErrClosedPipe
	}
	w.wrote += len(b)
	return w.to.Write(b)
}

// attend starts a reader, and returns what it is written to and its end.
func (r *replica) attend(ctx context.Context, target, last string) (*recorder, <-chan struct{}) {
	w, done := newRecorder(), make(chan struct{})
	q := request(ctx, last)
	u, err := q.URL.Parse(target)
	if err != nil {
		panic(err)
	}
	q.URL = u
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil && v != http.ErrAbortHandler { //nolint:errorlint // as net/http compares it
				panic(v)
			}
		}()
		r.handler.ServeHTTP(w, q)
	}()
	return w, done
}

// framesOf returns the frames with an id, in their bytes.
func framesOf(raw string) []string {
	var all []string
	for block := range strings.SplitSeq(raw, "\n\n") {
		if strings.HasPrefix(block, "id: ") && !strings.Contains(strings.SplitN(block, "\n", 2)[0], "-0") {
			all = append(all, block)
		}
	}
	return all
}

// play plays a run of three attempts on a hub. step is called after each frame.
func play(hub *Hub, step func(int)) (end End, want string) {
	n := 0
	next := func() { step(n); n++ }
	for attempt := int32(1); attempt <= 3; attempt++ {
		hub.Begin(hello, statusOf(hello, "Streaming", attempt))
		next()
		want = ""
		for i := range 4 {
			s := fmt.Sprintf("word %d of %d; ", i, attempt)
			want += s
			hub.Part(hello.UID, attempt, text(s))
			next()
		}
		if attempt < 3 {
			hub.Retry(hello, statusOf(hello, "Retrying", attempt), retryOf(attempt))
			next()
		}
	}
	hub.Title(hello, "A title")
	next()
	end = endOf(hello, "Succeeded", 3)
	end.Done.Bytes = int64(len(want))
	hub.Finish(hello, end)
	next()
	return end, want
}

// TestRelay: many readers at an edge cost the owner one, and get its frames as
// they are, in all formats.
func TestRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newReplicas("a", "b")
		a, b := all.all["a"], all.all["b"]
		all.owned("a", pendingView())
		atOwner, _ := a.attend(t.Context(), helloPath, "")
		var edge []*recorder
		var ends []<-chan struct{}
		for range 20 {
			w, done := b.attend(t.Context(), helloPath, "")
			edge, ends = append(edge, w), append(ends, done)
		}
		plainText, textDone := b.attend(t.Context(), helloPath+"?format=text&hold=true", "")
		openAI, openAIDone := b.attend(t.Context(), helloPath+"?format=openai&hold=true", "")
		synctest.Wait()
		if got := all.connections(); got != 1 {
			t.Fatalf("%d connections", got)
		}
		_, want := play(a.hub, func(int) { rest(t.Context(), 100*time.Millisecond) })
		synctest.Wait()
		for _, done := range append(ends, textDone, openAIDone) {
			<-done
		}
		own := framesOf(atOwner.String())
		for _, w := range edge {
			c := &client{t: t}
			c.read(w.String())
			if c.draft != want || !c.done || c.title != "A title" {
				t.Fatalf("draft %q, done %t, title %q", c.draft, c.done, c.title)
			}
			if got := framesOf(w.String()); strings.Join(got, "|") != strings.Join(own, "|") {
				t.Fatalf("at the owner:\n%s\nat the edge:\n%s", strings.Join(own, "\n"), strings.Join(got, "\n"))
			}
		}
		if plainText.String() != want {
			t.Errorf("text %q", plainText)
		}
		if !strings.Contains(openAI.String(), "[DONE]") {
			t.Errorf("openai %q", openAI)
		}
		synctest.Wait()
		if all.connections() != 0 || a.hub.Readers() != 0 || b.hub.Readers() != 0 || len(b.hub.logs) != 0 {
			t.Errorf("%d connections, %d and %d readers, %d logs", all.connections(), a.hub.Readers(), b.hub.Readers(), len(b.hub.logs))
		}
		if got := all.opened(); len(got) != 1 {
			t.Errorf("opened %q", got)
		}
		if b.hub.Bytes() != 0 {
			t.Errorf("%d bytes are left", b.hub.Bytes())
		}
	})
}

// TestRelayCursor: who was cut at one replica goes on at another without a reset,
// whatever frame it saw last.
func TestRelayCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newReplicas("a", "b", "c")
		all.owned("a", pendingView())
		a := all.all["a"]
		c := &client{t: t}
		last, turn := "", 0
		_, want := play(a.hub, func(n int) {
			one := all.all[[]string{"b", "c", "a"}[turn%3]]
			turn++
			ctx, cancel := context.WithCancel(t.Context())
			w, done := one.attend(ctx, helloPath, last)
			rest(t.Context(), 100*time.Millisecond)
			synctest.Wait()
			cancel()
			<-done
			// A part of an attempt that failed is in no log any more.
			own := reader{log: a.hub.find(hello.UID)}
			void := last != "" && !own.resume(last)
			before := len(c.events)
			c.read(w.String())
			for _, e := range c.events[before:] {
				if e.event == "reset" && !void && strings.HasSuffix(e.id, "-0") {
					t.Errorf("step %d: a reset for %s", n, last)
				}
				if !strings.HasSuffix(e.id, "-0") {
					last = e.id
				}
			}
		})
		if c.draft != want || !c.done {
			t.Errorf("draft %q, done %t", c.draft, c.done)
		}
	})
}

// TestRelayCut cuts the connection to the owner after every number of bytes.
func TestRelayCut(t *testing.T) {
	for cut := 1; cut < 6000; cut += 61 {
		synctest.Test(t, func(t *testing.T) {
			all := newReplicas("a", "b")
			all.owned("a", pendingView())
			a, b := all.all["a"], all.all["b"]
			all.cut = cut
			w, done := b.attend(t.Context(), helloPath, "")
			synctest.Wait()
			end, want := play(a.hub, func(int) { rest(t.Context(), 300*time.Millisecond) })
			rest(t.Context(), 30*time.Second)
			finished := View{Run: hello, Status: end.Done.Status, Finished: true, Text: want, End: end}
			all.owned("a", finished)
			rest(t.Context(), 30*time.Second)
			select {
			case <-done:
			default:
				t.Fatalf("cut after %d: it goes on: %s", cut, w)
			}
			c := &client{t: t}
			c.read(w.String())
			if c.draft != want || !c.done {
				t.Errorf("cut after %d: draft %q, done %t: %s", cut, c.draft, c.done, w)
			}
		})
	}
}

// TestRelayPromoted: this replica takes the run over. Readers are reset, and get
// the new attempt from here.
func TestRelayPromoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newReplicas("a", "b", "c")
		a, b := all.all["a"], all.all["b"]
		all.owned("a", pendingView())
		a.hub.Begin(hello, statusOf(hello, "Streaming", 1))
		a.hub.Part(hello.UID, 1, text("lost"))
		w, done := b.attend(t.Context(), helloPath, "")
		atC, doneC := all.all["c"].attend(t.Context(), helloPath, "")
		synctest.Wait()
		all.set(func() { all.down = errors.New("down") })
		a.hub.Close()
		synctest.Wait()
		all.owned("b", pendingView())
		all.set(func() { all.down = nil })
		b.hub.Retry(hello, statusOf(hello, "Retrying", 1), retryOf(1))
		rest(t.Context(), time.Second)
		b.hub.Begin(hello, statusOf(hello, "Streaming", 2))
		b.hub.Part(hello.UID, 2, text("kept"))
		rest(t.Context(), 10*time.Second)
		end := endOf(hello, "Succeeded", 2)
		end.Done.Bytes = 4
		b.hub.Finish(hello, end)
		<-done
		<-doneC
		for _, raw := range []string{w.String(), atC.String()} {
			c := &client{t: t}
			c.read(raw)
			if c.draft != "kept" || !c.done || !strings.Contains(names(c.events), "reset status retry") {
				t.Errorf("draft %q, done %t: %s", c.draft, c.done, names(c.events))
			}
		}
	})
}

// TestElsewhere: a log that was written here is another replica's from now on.
func TestElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newReplicas("a", "b", "c")
		a, b := all.all["a"], all.all["b"]
		all.owned("a", pendingView())
		a.hub.Begin(hello, statusOf(hello, "Streaming", 1))
		a.hub.Part(hello.UID, 1, text("lost"))
		atA, doneA := a.attend(t.Context(), helloPath, "")
		atC, doneC := all.all["c"].attend(t.Context(), helloPath, "")
		synctest.Wait()
		all.owned("b", pendingView())
		b.hub.Begin(hello, statusOf(hello, "Streaming", 2))
		b.hub.Part(hello.UID, 2, text("kept"))
		for range 3 {
			a.hub.Elsewhere(hello)
			all.all["c"].hub.Elsewhere(hello)
			synctest.Wait()
		}
		// A late part of a worker that was stopped reaches nobody.
		a.hub.Part(hello.UID, 1, text("late"))
		rest(t.Context(), time.Second)
		if got := all.connections(); got != 2 {
			t.Errorf("%d connections", got)
		}
		end := endOf(hello, "Succeeded", 2)
		end.Done.Bytes = 4
		b.hub.Finish(hello, end)
		<-doneA
		<-doneC
		for _, raw := range []string{atA.String(), atC.String()} {
			c := &client{t: t}
			c.read(raw)
			if c.draft != "kept" || !c.done || !strings.Contains(names(c.events), "message_part reset status message_part") {
				t.Errorf("draft %q, done %t: %s", c.draft, c.done, names(c.events))
			}
		}
		a.hub.Elsewhere(hello) // no log
	})
}

// TestRelayFaults: what readers are told who cannot be relayed to.
func TestRelayFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		down   error
		reason string
		code   int
		after  time.Duration
	}{
		"refused":     {fmt.Errorf("asking: %w", ErrRefused), "RelayRefused", http.StatusBadGateway, 0},
		"unreachable": {errors.New("no route"), "OwnerUnreachable", http.StatusServiceUnavailable, ownerLimit},
		"not there":   {ErrNotOwner, "OwnerUnreachable", http.StatusServiceUnavailable, ownerLimit},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := newReplicas("a", "b")
				all.owned("a", pendingView())
				a, b := all.all["a"], all.all["b"]
				a.hub.Begin(hello, statusOf(hello, "Streaming", 1))
				a.hub.Part(hello.UID, 1, text("begun"))
				w, done := b.attend(t.Context(), helloPath, "")
				held, heldDone := b.attend(t.Context(), helloPath+"?format=text&hold=true", "")
				rest(t.Context(), time.Second)
				began := time.Now()
				all.set(func() { all.down = tc.down })
				a.hub.Close()
				<-done
				<-heldDone
				if took := time.Since(began); took < tc.after || took > tc.after+15*time.Second {
					t.Errorf("after %s", took)
				}
				events := parse(w.String())
				last := events[len(events)-1]
				if last.event != "failed" || last.id != "" || !strings.Contains(last.data, tc.reason) {
					t.Errorf("the end: %+v", last)
				}
				if held.code != tc.code || !strings.Contains(held.String(), tc.reason) {
					t.Errorf("before the first byte: %d %s", held.code, held)
				}
				if beats := strings.Count(w.String(), ": keep-alive"); tc.after > 0 && beats < 4 {
					t.Errorf("%d heartbeats", beats)
				}
				dials := len(all.opened())
				if limit := 3 + int(tc.after/maxRedial) + 7; dials > limit {
					t.Errorf("%d dials", dials)
				}
				// One who comes now: refused at once, or told where the run stands.
				late, lateDone := b.attend(t.Context(), helloPath, "")
				if tc.after == 0 {
					<-lateDone
					if late.code != tc.code || !strings.Contains(late.String(), tc.reason) || !strings.Contains(late.String(), `"kind":"Status"`) {
						t.Errorf("late: %d %s", late.code, late)
					}
					return
				}
				rest(t.Context(), historyWait)
				synctest.Wait()
				if got := names(parse(late.String())); got != "status" {
					t.Errorf("late: %d %s", late.code, late)
				}
				b.hub.Close()
				<-lateDone
			})
		})
	}
}
