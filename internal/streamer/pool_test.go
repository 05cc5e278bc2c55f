// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
)

// caller is a provider by function.
type caller func(ctx context.Context, part func(provider.Part)) (provider.Result, error)

func (c caller) Stream(ctx context.Context, _ provider.Endpoint, _ provider.Request, part func(provider.Part)) (provider.Result, error) {
	return c(ctx, part)
}

func (c caller) Complete(context.Context, provider.Endpoint, provider.Request) (string, provider.Result, error) {
	panic("nobody asks for this")
}

var stopped = provider.Result{FinishReason: provider.FinishStop, Usage: provider.Usage{InputTokens: 3, OutputTokens: 4}}

// until waits for the end of the context, as a client in a read does.
func until(ctx context.Context) (provider.Result, error) {
	<-ctx.Done()
	return provider.Result{}, context.Cause(ctx)
}

// rest is a wait on the bubble's clock.
func rest(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// pool is a Pool that counts its nudges, and is shut down with the test.
type pool struct {
	*Pool
	mu     sync.Mutex
	nudges int
}

func newPool(t *testing.T, c caller) *pool {
	t.Helper()
	p := &pool{}
	p.Pool = NewPool(c, NewHub(), func(run Run) {
		p.Look(run.Namespace, run.Name) // would hang under a lock
		p.mu.Lock()
		defer p.mu.Unlock()
		p.nudges++
	})
	t.Cleanup(func() {
		if err := p.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *pool) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nudges
}

func (p *pool) look(t *testing.T) Snapshot {
	t.Helper()
	synctest.Wait()
	s, ok := p.Look(hello.Namespace, hello.Name)
	if !ok {
		t.Fatal("the pool knows nothing of the run")
	}
	return s
}

func start(t *testing.T, p *pool, a Attempt) {
	t.Helper()
	if a.Run == (Run{}) {
		a.Run = hello
	}
	if err := p.Start(a); err != nil {
		t.Fatal(err)
	}
}

func TestOutcome(t *testing.T) {
	const idle = time.Minute
	overloaded := &chatretry.Failure{Class: chatretry.Overloaded}
	tests := []struct {
		name  string
		idle  time.Duration
		call  caller
		do    func(*pool)
		good  bool
		class chatretry.Class
		cause error
		text  string
		took  time.Duration
	}{
		{name: "good", idle: idle, good: true, text: "one two", call: func(_ context.Context, part func(provider.Part)) (provider.Result, error) {
			part(provider.Part{Kind: provider.Reasoning, Text: "hm"})
			part(text("one "))
			part(text("two"))
			return stopped, nil
		}},
		{name: "silence before the first part", idle: idle, class: chatretry.Timeout, took: idle, call: func(ctx context.Context, _ func(provider.Part)) (provider.Result, error) {
			return until(ctx)
		}},
		{name: "silence between parts", idle: idle, class: chatretry.Timeout, text: "one", took: idle + 30*time.Second, call: func(ctx context.Context, part func(provider.Part)) (provider.Result, error) {
			rest(ctx, 30*time.Second)
			part(text("one"))
			return until(ctx)
		}},
		{name: "slow drip", idle: idle, good: true, text: strings.Repeat("x", 100), took: 100 * 59 * time.Second, call: func(ctx context.Context, part func(provider.Part)) (provider.Result, error) {
			for range 100 {
				rest(ctx, 59*time.Second)
				part(text("x"))
			}
			return stopped, nil
		}},
		{name: "the silence guard is off", good: true, text: "x", took: 24 * time.Hour, call: func(ctx context.Context, part func(provider.Part)) (provider.Result, error) {
			rest(ctx, 24*time.Hour)
			part(text("x"))
			return stopped, nil
		}},
		{name: "a failure of its own", idle: idle, class: chatretry.Overloaded, text: "one", call: func(_ context.Context, part func(provider.Part)) (provider.Result, error) {
			part(text("one"))
			return stopped, overloaded
		}},
		{name: "a wrapped failure", class: chatretry.Overloaded, call: func(context.Context, func(provider.Part)) (provider.Result, error) {
			return provider.Result{}, fmt.Errorf("calling: %w", overloaded)
		}},
		{name: "an error that nobody classified", class: chatretry.ConnectionError, call: func(context.Context, func(provider.Part)) (provider.Result, error) {
			return provider.Result{}, errors.New("secret detail")
		}},
		{name: "panic", class: chatretry.ServerError, text: "one", call: func(_ context.Context, part func(provider.Part)) (provider.Result, error) {
			part(text("one"))
			panic("secret detail")
		}},
		{name: "stopped keeps the text", idle: idle, cause: ErrStopped, text: "one", call: func(ctx context.Context, part func(provider.Part)) (provider.Result, error) {
			part(text("one"))
			return until(ctx)
		}, do: func(p *pool) { p.Stop(hello.UID, ErrStopped) }},
		{name: "the first cause is kept", idle: idle, cause: ErrDeadline, call: func(ctx context.Context, _ func(provider.Part)) (provider.Result, error) {
			return until(ctx)
		}, do: func(p *pool) {
			p.Stop(hello.UID, ErrDeadline)
			p.Stop(hello.UID, ErrStopped)
		}},
		{name: "stopped, and the error is another", cause: ErrSuspended, call: func(ctx context.Context, _ func(provider.Part)) (provider.Result, error) {
			<-ctx.Done()
			return provider.Result{}, overloaded
		}, do: func(p *pool) { p.Stop(hello.UID, ErrSuspended) }},
		{name: "stopped as it succeeds", idle: idle, good: true, text: "all", call: func(ctx context.Context, part func(provider.Part)) (provider.Result, error) {
			<-ctx.Done()
			part(text("all"))
			return stopped, nil
		}, do: func(p *pool) { p.Stop(hello.UID, ErrStopped) }},
		{name: "silent as it succeeds", idle: idle, good: true, took: idle, call: func(ctx context.Context, _ func(provider.Part)) (provider.Result, error) {
			<-ctx.Done()
			return stopped, nil
		}},
		{name: "shut down", idle: idle, cause: ErrShutdown, text: "one", call: func(ctx context.Context, part func(provider.Part)) (provider.Result, error) {
			part(text("one"))
			return until(ctx)
		}, do: func(p *pool) { p.cancel(ErrShutdown) }},
		{name: "not UTF-8", good: true, text: "a\uFFFDb", call: func(_ context.Context, part func(provider.Part)) (provider.Result, error) {
			part(text("a\xffb"))
			return stopped, nil
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := make(chan time.Time, 1)
				p := newPool(t, func(ctx context.Context, part func(provider.Part)) (provider.Result, error) {
					defer func() { ended <- time.Now() }()
					return test.call(ctx, part)
				})
				began := time.Now()
				start(t, p, Attempt{Number: 1, IdleTimeout: test.idle})
				if s := p.look(t); test.do != nil {
					if !s.Running {
						t.Fatal("it does not run")
					}
					test.do(p)
				}
				if took := (<-ended).Sub(began); took != test.took {
					t.Errorf("it took %s, want %s", took, test.took)
				}
				s := p.look(t)
				o := s.Outcome
				if s.Running || o == nil || p.count() != 1 {
					t.Fatalf("running %t, outcome %v, %d nudges", s.Running, o, p.count())
				}
				if o.Good() != test.good || !errors.Is(o.Cause, test.cause) || o.Text != test.text || o.Bytes != int64(len(test.text)) {
					t.Errorf("got %+v", o)
				}
				if (o.FinishReason != "") != test.good || o.FirstPart.IsZero() != (test.text == "") {
					t.Errorf("finish reason %q, first part %s", o.FinishReason, o.FirstPart)
				}
				if took := o.Ended.Sub(o.Started); took != test.took || !o.Started.Equal(began) {
					t.Errorf("started at %s and took %s, as told", o.Started, took)
				}
				var class chatretry.Class
				if o.Failure != nil {
					class = o.Failure.Class
					if o.Failure.Message == "" && o.Failure != overloaded || strings.Contains(o.Failure.Message, "secret") {
						t.Errorf("message %q", o.Failure.Message)
					}
				}
				if class != test.class {
					t.Errorf("class %q, want %q", class, test.class)
				}
			})
		})
	}
}

func TestStartRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, func(ctx context.Context, _ func(provider.Part)) (provider.Result, error) { return until(ctx) })
		want := func(err error, a Attempt) {
			t.Helper()
			if got := p.Start(a); !errors.Is(got, err) {
				t.Errorf("got %v, want %v", got, err)
			}
		}
		other := Run{"uid-2", hello.Namespace, hello.Name}
		want(nil, Attempt{Run: hello, Number: 2})
		want(ErrRunning, Attempt{Run: hello, Number: 3})
		want(ErrNameHeld, Attempt{Run: other, Number: 1})
		p.Stop(hello.UID, ErrStopped)
		p.look(t)
		want(ErrStaleAttempt, Attempt{Run: hello, Number: 2})
		p.Settle(hello.UID)
		if s := p.look(t); s.Outcome != nil || !s.Settled || s.Attempt != 2 {
			t.Errorf("after Settle: %+v", s)
		}
		want(ErrStaleAttempt, Attempt{Run: hello, Number: 1})
		want(nil, Attempt{Run: hello, Number: 3})
		if s := p.look(t); s.Settled || !s.Running {
			t.Errorf("after Start: %+v", s)
		}
		if !p.Accepting() {
			t.Error("not accepting")
		}
		if err := p.Shutdown(t.Context()); err != nil || p.Accepting() {
			t.Errorf("shutdown: %v, accepting %t", err, p.Accepting())
		}
		if s := p.look(t); s.Outcome == nil || !errors.Is(s.Outcome.Cause, ErrShutdown) {
			t.Errorf("after Shutdown: %+v", s)
		}
		want(ErrNotAccepting, Attempt{Run: hello, Number: 4})
		if runs := p.Runs(); len(runs) != 1 || runs[0] != hello {
			t.Errorf("runs %v", runs)
		}
	})
}

func TestDropAndForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		p := newPool(t, func(ctx context.Context, _ func(provider.Part)) (provider.Result, error) {
			_, err := until(ctx)
			<-hold // a client that is slow to notice
			return provider.Result{}, err
		})
		p.hub.Begin(hello, statusOf(hello, "Streaming", 1))
		start(t, p, Attempt{Number: 1})
		p.Forget(hello.UID)
		p.look(t) // still there: it runs
		p.Drop(hello.UID)
		if _, ok := p.Look(hello.Namespace, hello.Name); ok || p.hub.find(hello.UID) != nil {
			t.Error("a dropped run is still known")
		}
		// The name is free although the old worker has not ended.
		other := Run{"uid-2", hello.Namespace, hello.Name}
		start(t, p, Attempt{Run: other, Number: 1})
		close(hold)
		synctest.Wait()
		if p.count() != 0 {
			t.Error("the dropped run's worker nudged")
		}
		if s := p.look(t); s.UID != other.UID || !s.Running {
			t.Errorf("the new run: %+v", s)
		}
		p.Drop(hello.UID)
		p.Stop(hello.UID, ErrStopped)
		p.Stop(other.UID, ErrStopped)
		p.look(t)
		p.Forget(other.UID)
		if len(p.entries) != 0 || len(p.uids) != 0 {
			t.Error("a forgotten run is still known")
		}
	})
}

func TestShutdownDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		p := newPool(t, func(context.Context, func(provider.Part)) (provider.Result, error) {
			<-hold
			return stopped, nil
		})
		start(t, p, Attempt{Number: 1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		close(hold)
	})
}

func TestDraftIsBounded(t *testing.T) {
	var d draft
	streamed := 0
	add := func(s string) {
		part, ok := d.add(text(s))
		if ok != (part.Text != "") {
			t.Errorf("ok %t with %d bytes", ok, len(part.Text))
		}
		streamed += len(part.Text)
	}
	add(strings.Repeat("x", MaxAnswerBytes-1))
	add("é") // would be cut in its middle
	add("y") // would fit, and not join
	if got := d.text.Len(); got != MaxAnswerBytes-1 || streamed != got || d.bytes != MaxAnswerBytes+2 {
		t.Errorf("kept %d, streamed %d, counted %d", got, streamed, d.bytes)
	}
}

// TestManyRuns starts, stops and drops runs from many sides at once.
func TestManyRuns(t *testing.T) {
	p := newPool(t, func(ctx context.Context, part func(provider.Part)) (provider.Result, error) {
		for range 10 {
			part(text("x"))
		}
		return until(ctx)
	})
	var work sync.WaitGroup
	for i := range 200 {
		run := Run{fmt.Sprint("uid-", i), "default", fmt.Sprint("run-", i%50)}
		work.Go(func() {
			p.hub.Begin(run, statusOf(run, "Streaming", 1))
			if err := p.Start(Attempt{Run: run, Number: 1, IdleTimeout: time.Hour}); err != nil && !errors.Is(err, ErrNameHeld) {
				t.Error(err)
			}
		})
		work.Go(func() { p.Stop(run.UID, ErrStopped) })
		work.Go(func() { p.Drop(run.UID) })
	}
	work.Wait()
	if err := p.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}
