// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"chatrun.dev/operator/internal/provider"
)

func TestTitle(t *testing.T) {
	// One part, and then the answer takes an hour.
	long := func(ctx context.Context, part func(provider.Part)) (provider.Result, error) {
		part(text("x"))
		rest(ctx, time.Hour)
		return stopped, nil
	}
	tests := []struct {
		name  string
		title func(context.Context) (string, error)
		do    func(*pool)
		want  string
		took  time.Duration
	}{
		{"quick", func(context.Context) (string, error) { return "T", nil }, nil, "T", 0},
		{"slow", func(ctx context.Context) (string, error) {
			rest(ctx, 20*time.Second)
			return "T", ctx.Err()
		}, nil, "T", 20 * time.Second},
		{"too slow", func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "half a title", ctx.Err()
		}, nil, "", TitleTimeout},
		{"failing", func(context.Context) (string, error) { return "", errors.New("no") }, nil, "", 0},
		{"panicking", func(context.Context) (string, error) { panic("no") }, nil, "", 0},
		{"stopped", func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", context.Cause(ctx)
		}, func(p *pool) { p.Stop(hello.UID, ErrStopped) }, "", 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, long)
				ended := make(chan time.Time, 1)
				began := time.Now()
				start(t, p, Attempt{Number: 1, Title: func(ctx context.Context) (string, error) {
					defer func() { ended <- time.Now() }()
					return test.title(ctx)
				}})
				if s := p.look(t); s.TitleRunning != (test.took > 0 || test.do != nil) {
					t.Errorf("title running: %t", s.TitleRunning)
				}
				if test.do != nil {
					test.do(p)
				}
				if took := (<-ended).Sub(began); took != test.took {
					t.Errorf("it took %s, want %s", took, test.took)
				}
				s := p.look(t)
				if s.Title != test.want || s.TitleRunning || p.count() == 0 {
					t.Errorf("got %+v, %d nudges", s, p.count())
				}
				if test.do == nil && !s.Running {
					t.Error("the title ended the attempt")
				}
				p.Stop(hello.UID, ErrStopped)
				p.look(t)
				p.Forget(hello.UID)
				if _, known := p.Look(hello.Namespace, hello.Name); known != (test.want != "") {
					t.Errorf("known with title %q: %t", test.want, known)
				}
				p.SettleTitle(hello.UID)
				p.Forget(hello.UID)
				if _, known := p.Look(hello.Namespace, hello.Name); known {
					t.Error("known after the title was settled")
				}
			})
		})
	}
}

// TestTitleIsAskedOnce: not before a part, and not for the attempts after.
func TestTitleIsAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parts := map[int32]int{1: 0, 2: 2, 3: 2}
		var number int32
		p := newPool(t, func(_ context.Context, part func(provider.Part)) (provider.Result, error) {
			for range parts[number] {
				part(text("x"))
			}
			return stopped, nil
		})
		asked := make(chan int32, 3)
		for number = 1; number <= 3; number++ {
			start(t, p, Attempt{Number: number, Title: func(context.Context) (string, error) {
				asked <- number
				return "", nil
			}})
			p.look(t)
		}
		close(asked)
		var got []int32
		for n := range asked {
			got = append(got, n)
		}
		if len(got) != 1 || got[0] != 2 {
			t.Errorf("asked in attempts %v", got)
		}
	})
}

// TestStoppedAttemptAsksNoTitle: a part that comes after Stop starts nothing
// that Stop did not see.
func TestStoppedAttemptAsksNoTitle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, func(ctx context.Context, part func(provider.Part)) (provider.Result, error) {
			<-ctx.Done()
			part(text("x"))
			return stopped, nil
		})
		start(t, p, Attempt{Number: 1, Title: func(context.Context) (string, error) {
			t.Error("asked")
			return "", nil
		}})
		p.Stop(hello.UID, ErrStopped)
		p.look(t)
	})
}
