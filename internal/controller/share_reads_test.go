// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
)

// elsewhere is a client whose cache has no run.
func elsewhere(c client.Client) client.Client {
	return seeing(c, func(*v1alpha1.ChatRun) error { return apierrors.NewNotFound(runs, "hello") })
}

// TestRunThatLeftTheCache: a run that has an attempt here goes on, ends and is
// forgotten in order, also when its share is another replica's; one that is gone for
// good is dropped.
func TestRunThatLeftTheCache(t *testing.T) {
	for _, ending := range []string{"answered", "ended by another", "deleted"} {
		t.Run(ending, func(t *testing.T) {
			b := newBench(t, newRun(untitled), ready())
			b.must(t)
			<-b.caller.asked
			b.r.client = elsewhere(b.api)
			b.must(t)
			if s, _ := b.r.pool.Look("ns", "hello"); !s.Running {
				t.Fatalf("the attempt does not go on: %+v", s)
			}
			switch ending {
			case "answered":
				b.caller.answer <- nil
				<-b.nudged
				b.must(t)
			case "ended by another":
				run := b.run(t)
				ended(cancel, "")(run)
				if err := b.api.Status().Update(t.Context(), run); err != nil {
					t.Fatal(err)
				}
			case "deleted":
				if err := b.api.Delete(t.Context(), b.run(t)); err != nil {
					t.Fatal(err)
				}
			}
			b.must(t)
			// The worker may need a moment to end, and tells of it.
			for until := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
				s, there := b.r.pool.Look("ns", "hello")
				if !there {
					break
				}
				select {
				case <-b.nudged:
					b.must(t)
				default:
				}
				if time.Now().After(until) {
					t.Fatalf("it is not forgotten: %+v", s)
				}
			}
			if ending == "answered" && b.run(t).Status.Phase != v1alpha1.PhaseSucceeded {
				t.Errorf("it ended as %s", b.run(t).Status.Phase)
			}
			reads := &counting{Reader: b.api}
			b.r.live = reads
			if b.must(t); reads.gets != 0 {
				t.Errorf("%d reads of a run that is nobody's here", reads.gets)
			}
		})
	}
}

// TestParentElsewhere: no event of a parent that is in another share comes, so it is
// looked at again.
func TestParentElsewhere(t *testing.T) {
	child := newRun(after("former"))
	for _, tc := range []struct {
		name            string
		parents         []client.Object
		sharded, cached bool
		want            time.Duration
	}{
		{"unfinished", []client.Object{newRun(named("former"), streaming(1))}, true, false, parentLook},
		{"unfinished and here", []client.Object{newRun(named("former"), streaming(1))}, true, true, 0},
		{"unfinished, the cache is late", []client.Object{newRun(named("former"), streaming(1))}, false, false, 0},
		{"not there yet", nil, true, false, parentLook},
		{"not there yet, and all are here", nil, false, false, parentGrace - 10*time.Second},
	} {
		b := newBench(t, append(tc.parents, child, ready())...)
		b.r.sharded = tc.sharded
		if !tc.cached {
			b.r.client = elsewhere(b.api)
		}
		_, wait, err := b.r.parent(t.Context(), child, t0)
		if err != nil || wait == nil || wait.final || wait.after != tc.want {
			t.Errorf("%s: %+v, %v", tc.name, wait, err)
		}
	}
}

// TestCreatedElsewhere: whoever waits for a run looks for it every second where its
// creation may come as no event.
func TestCreatedElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := fake.NewClientBuilder().Build()
		s := newSource(api, api, members.Alone("me"))
		s.Sharded()
		woken, stop := s.Created("ns", "hello")
		_, stopOther := s.Created("ns", "hello")
		began := time.Now()
		for range 3 {
			<-woken
		}
		if took := time.Since(began); took != 3*createdLook {
			t.Errorf("woken three times in %v", took)
		}
		stop()
		stop()
		select {
		case <-woken:
			t.Error("woken after the end")
		case <-time.After(time.Minute):
		}
		stopOther()
		if len(s.waiting) != 0 {
			t.Errorf("%d wait", len(s.waiting))
		}

		s = newSource(api, api, members.Alone("me"))
		woken, stop = s.Created("ns", "hello")
		defer stop()
		select {
		case <-woken:
			t.Error("a cache that has all runs tells of them itself")
		case <-time.After(time.Minute):
		}
	})
}

func TestShares(t *testing.T) {
	s := NewShares("me", func(run *v1alpha1.ChatRun) bool { return run.Spec.ProviderRef.Name == "limited" })
	buckets, moved := s.Share()
	rekept := s.KeepChanged()
	isClosed := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	if s.Set(0); buckets != 0 || isClosed(moved) {
		t.Error("nothing changed")
	}
	if s.Set(3); !isClosed(moved) || isClosed(rekept) {
		t.Error("the buckets changed")
	}
	if buckets, moved = s.Share(); buckets != 3 || isClosed(moved) {
		t.Errorf("%x", buckets)
	}
	if s.Rekeep(); !isClosed(rekept) || isClosed(s.KeepChanged()) || isClosed(moved) {
		t.Error("what is kept changed")
	}
	for name, want := range map[string]bool{"mine": true, "other": false, "waits": true, "limited": true} {
		run := newRun()
		run.UID = types.UID(name)
		switch name {
		case "mine":
			run.Status.Worker = "me"
		case "other":
			run.Status.Worker = "other"
		case "waits":
			after("former")(run)
		case "limited":
			run.Spec.ProviderRef.Name = "limited"
		}
		if got := s.Keep(run); got != want {
			t.Errorf("%s is kept: %v", name, got)
		}
	}
	if NewShares("me", nil).Keep(newRun()) {
		t.Error("a run that is nobody's is kept")
	}
}
