// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
)

func keyOf(run *v1alpha1.ChatRun) types.NamespacedName { return client.ObjectKeyFromObject(run) }

func TestPause(t *testing.T) {
	for _, tc := range []struct {
		from, to members.Buckets
		rekept   bool
		after    time.Duration
		never    bool
	}{
		{0b11, 0b11, false, 0, true},
		{0b11, 0b11, true, rekeepPause, false},
		{0b01, 0b11, false, 0, false},
		{0b11, 0b01, false, shrinkPause, false},
		{0b11, 0b01, true, rekeepPause, false},
		{0b01, 0b10, false, 0, false},
		{0, members.AllBuckets, true, 0, false},
	} {
		if after, never := pause(tc.from, tc.to, tc.rekept); after != tc.after || never != tc.never {
			t.Errorf("%+v: %v, %v", tc, after, never)
		}
	}
}

// TestShareMoves: one that grows is listed at once, one that shrinks a minute after
// the last list, and Keep is asked again within a second. Nothing is said before of
// buckets that the cache does not have.
func TestShareMoves(t *testing.T) {
	bubble(t, lower, func(v *view) {
		v.put("in", true)
		v.put("out", false)
		v.list()
		v.open()
		began := time.Now()

		v.shares.Set(members.AllBuckets)
		v.sees(watch.Added, "out")
		synctest.Wait()
		if took := time.Since(began); took != 0 || v.runs.Watched() != members.AllBuckets {
			v.Errorf("it grew after %v, and watches %x", took, v.runs.Watched())
		}
		v.put("new", false)
		v.sees(watch.Added, "new")

		// Smaller, and back before that is acted on: nothing comes of it.
		v.shares.Set(lower)
		v.quiet()
		<-time.After(shrinkPause / 2)
		v.shares.Set(members.AllBuckets)
		<-time.After(shrinkPause)
		v.quiet()
		_, before := v.server.counts()

		began = time.Now()
		v.shares.Set(lower)
		gone := map[string]bool{}
		for range 2 {
			e := <-v.watch.ResultChan()
			run, _ := e.Object.(*v1alpha1.ChatRun)
			gone[string(e.Type)+run.Name] = true
		}
		synctest.Wait()
		if !gone["DELETEDout"] || !gone["DELETEDnew"] || v.runs.Watched() != lower {
			v.Errorf("%v, and it watches %x", gone, v.runs.Watched())
		}
		if _, lists := v.server.counts(); lists != before+2 || time.Since(began) != 0 {
			v.Errorf("%d lists, after %v", lists-before, time.Since(began))
		}

		// Again in the same minute.
		v.shares.Set(0)
		v.sees(watch.Deleted, "in")
		if took := time.Since(began); took != shrinkPause {
			v.Errorf("it shrank after %v", took)
		}
	})
}

func TestKeepIsAskedAgain(t *testing.T) {
	bubble(t, 0, func(v *view) {
		keeps := make(chan bool, 1)
		keeps <- false
		v.shares.falls = func(*v1alpha1.ChatRun) bool {
			k := <-keeps
			keeps <- k
			return k
		}
		v.put("x", true)
		if got := v.list(); got != "" {
			v.Errorf("%q", got)
		}
		v.open()
		set := func(k bool) {
			<-keeps
			keeps <- k
			v.shares.Rekeep()
		}
		began := time.Now()
		set(true)
		v.sees(watch.Added, "x")
		if took := time.Since(began); took != rekeepPause {
			v.Errorf("after %v", took)
		}
		for range 10 { // a storm costs one list a second
			set(false)
			set(true)
		}
		set(false)
		v.sees(watch.Deleted, "x")
		if _, lists := v.server.counts(); lists != 3 {
			v.Errorf("%d lists", lists)
		}
		v.quiet()
	})
}

// TestMoveThatFails is left to the reflector: what it has stays, the buckets count
// as watched as before, and the next list takes the new share.
func TestMoveThatFails(t *testing.T) {
	bubble(t, lower, func(v *view) {
		v.put("out", false)
		v.list()
		v.open()
		v.server.fail(errors.New("no"))
		v.shares.Set(members.AllBuckets)
		v.sees(watch.Error, "")
		v.sees("", "")
		if v.runs.Watched() != lower {
			v.Errorf("it watches %x", v.runs.Watched())
		}
		if got := v.list(); got != "out" || v.runs.Watched() != members.AllBuckets {
			v.Errorf("%q, and it watches %x", got, v.runs.Watched())
		}
	})
}

// TestMoveWithEventsInFlight: what the old watches had not told yet, the list tells,
// and nothing comes twice or late.
func TestMoveWithEventsInFlight(t *testing.T) {
	bubble(t, lower, func(v *view) {
		v.put("in", true)
		v.put("gone", true)
		v.list()
		v.server.late = func(bool) time.Duration { return time.Second }
		v.open()
		changed := v.server.get("in")
		changed.Labels = map[string]string{"a": "b"}
		v.server.put(changed)
		v.server.delete("gone")
		v.put("out", false)
		v.shares.Set(members.AllBuckets)
		v.sees(watch.Deleted, "gone")
		if run := v.sees(watch.Modified, "in"); run.Labels["a"] != "b" {
			v.Errorf("%v", run.Labels)
		}
		v.sees(watch.Added, "out")
		<-time.After(time.Minute)
		v.quiet()
	})
}

// TestMoveThatIsStopped in its middle has the next one list.
func TestMoveThatIsStopped(t *testing.T) {
	bubble(t, lower, func(v *view) {
		for i := range 3 {
			v.put(fmt.Sprint(i), false)
		}
		v.list()
		v.open()
		v.shares.Set(members.AllBuckets)
		v.sees(watch.Added, "0")
		v.watch.Stop()
		if v.runs.Watched() != lower || v.runs.scope != nil {
			v.Errorf("it watches %x", v.runs.Watched())
		}
	})
}

// TestLeavingRunsAreWhole: a run that leaves the cache with its bucket goes as the
// cache had it, in a copy.
func TestLeavingRunsAreWhole(t *testing.T) {
	bubble(t, members.AllBuckets, func(v *view) {
		had := v.put("known", true, ours)
		other := v.put("other", true)
		v.runs.cached = func(key types.NamespacedName) *v1alpha1.ChatRun {
			if key.Name == had.Name {
				return had
			}
			return nil
		}
		had.Status.Worker = "a third"
		v.server.put(had)
		v.list()
		v.open()
		<-time.After(shrinkPause)
		v.shares.Set(^lower)
		for range 2 {
			e := <-v.watch.ResultChan()
			run, _ := e.Object.(*v1alpha1.ChatRun)
			switch {
			case e.Type != watch.Deleted || run == had:
				v.Errorf("%s %v", e.Type, run)
			case run.Name == had.Name && run.Status.Worker != "a third",
				run.Name == other.Name && (run.UID != other.UID || run.Namespace != "ns"):
				v.Errorf("%+v", run)
			}
		}
	})
}

// TestGoneRunsAreBounded also where no bookmark comes.
func TestGoneRunsAreBounded(t *testing.T) {
	bubble(t, lower, func(v *view) {
		v.list()
		v.open()
		for i := range maxGone + 2 {
			name := fmt.Sprint(i)
			v.put(name, true)
			v.sees(watch.Added, name)
			v.server.delete(name)
			v.sees(watch.Deleted, name)
		}
		synctest.Wait()
		if n := len(v.runs.shown.gone); n > maxGone {
			v.Errorf("%d are remembered", n)
		}
	})
}
