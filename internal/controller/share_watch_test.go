// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"chatrun.dev/operator/api/v1alpha1"
)

// TestHalvesEndTogether: when one watch ends, so does the other, and each goes on
// from where it was.
func TestHalvesEndTogether(t *testing.T) {
	for half := range 2 {
		bubble(t, lower, func(v *view) {
			v.list()
			v.open()
			v.put("a", true)
			v.sees(watch.Added, "a")
			v.put("b", false, ours)
			v.sees(watch.Added, "b")
			v.server.open()[half].Stop()
			v.sees("", "")
			v.put("c", true)
			v.put("d", false, ours)
			synctest.Wait()
			if open := v.server.open(); len(open) > 0 {
				v.Errorf("%d are open", len(open))
			}
			v.open()
			got := map[string]bool{}
			for range 2 {
				e := <-v.watch.ResultChan()
				run, _ := e.Object.(*v1alpha1.ChatRun)
				got[string(e.Type)+run.Name] = true
			}
			if !got["ADDEDc"] || !got["ADDEDd"] {
				v.Errorf("%v", got)
			}
			v.quiet()
		})
	}
}

// TestBookmarksCarryOn: a half of which nothing is told for long can go on all the
// same, and the reflector hears of no bookmark, which would be of one half alone.
func TestBookmarksCarryOn(t *testing.T) {
	bubble(t, lower, func(v *view) {
		v.put("a", false, ours)
		v.list()
		v.open()
		for i := range 10 {
			v.put(fmt.Sprint(i), true)
			v.sees(watch.Added, fmt.Sprint(i))
		}
		v.server.delete("a")
		v.sees(watch.Deleted, "a")
		for _, w := range v.server.open() {
			w.more <- watch.Event{Type: watch.Bookmark}
		}
		v.quiet()
		if len(v.runs.shown.gone) != 0 {
			v.Error("what is gone for long is remembered")
		}
		v.server.compact()
		v.server.open()[0].Stop()
		v.sees("", "")
		v.open()
		v.put("last", true)
		v.sees(watch.Added, "last")
	})
}

// TestLateWatchShowsNoFormerRun: a name that both halves used stays known until the
// later of the two watches is past that.
func TestLateWatchShowsNoFormerRun(t *testing.T) {
	bubble(t, lower, func(v *view) {
		v.list()
		v.server.late = func(outside bool) time.Duration {
			if outside {
				return 0
			}
			return time.Second
		}
		v.open()
		v.put("x", true)
		v.server.delete("x")
		v.put("x", false, ours)
		v.sees(watch.Added, "x")
		v.server.delete("x")
		v.sees(watch.Deleted, "x")
		v.server.open()[1].more <- watch.Event{Type: watch.Bookmark}
		<-time.After(time.Minute)
		v.quiet()
		v.server.open()[0].more <- watch.Event{Type: watch.Bookmark}
		v.quiet()
		if len(v.runs.shown.gone) != 0 {
			v.Error("it is remembered for ever")
		}
	})
}

// TestErrorsReachTheReflector, which knows which of them ask for a list.
func TestErrorsReachTheReflector(t *testing.T) {
	for half := range 2 {
		for _, err := range []*apierrors.StatusError{apierrors.NewResourceExpired("old"), apierrors.NewTooManyRequests("busy", 1)} {
			bubble(t, lower, func(v *view) {
				v.list()
				v.open()
				v.server.open()[half].more <- fails(err)
				v.sees(watch.Error, "")
				v.sees("", "")
				v.open()
				v.put("a", true)
				v.sees(watch.Added, "a")
			})
		}
	}
	bubble(t, lower, func(v *view) {
		if _, err := v.runs.WatchWithContext(v.Context(), metav1.ListOptions{}); !apierrors.IsResourceExpired(err) {
			v.Errorf("a watch before the list: %v", err)
		}
		v.list()
		v.put("a", true)
		v.server.compact()
		if _, err := v.runs.WatchWithContext(v.Context(), metav1.ListOptions{}); !apierrors.IsResourceExpired(err) {
			v.Errorf("a watch that is too late: %v", err)
		}
		v.server.fail(errors.New("no"))
		if _, err := v.runs.ListWithContext(v.Context(), metav1.ListOptions{}); err == nil {
			v.Error("no error")
		}
	})
}

// TestWatchThatIsStopped leaves nothing behind, and what it had in hand is listed.
func TestWatchThatIsStopped(t *testing.T) {
	bubble(t, lower, func(v *view) {
		v.list()
		v.open()
		v.put("a", true)
		synctest.Wait() // it is in hand, and nobody takes it
		v.watch.Stop()
		v.watch.Stop()
		if _, err := v.runs.WatchWithContext(v.Context(), metav1.ListOptions{}); !apierrors.IsResourceExpired(err) {
			v.Errorf("%v", err)
		}
		if got := v.list(); got != "a" {
			v.Errorf("%q", got)
		}
		ctx, cancel := context.WithCancel(v.Context())
		w, err := v.runs.WatchWithContext(ctx, metav1.ListOptions{})
		if err != nil {
			v.Fatal(err)
		}
		cancel()
		if _, ok := <-w.ResultChan(); ok {
			v.Error("an event")
		}
	})
}
