// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
)

// lower is half of the buckets.
const lower = members.Buckets(0xffffffff)

// view is a share of a server, and one watch of it at a time.
type view struct {
	*testing.T
	server *shelfServer
	shares *Shares
	runs   *ShardedRuns
	watch  watch.Interface
	random *rand.Rand
}

func newView(t *testing.T, buckets members.Buckets) *view {
	v := &view{T: t, server: newShelfServer(), shares: NewShares("me", nil), random: rand.New(rand.NewPCG(1, 1))}
	v.shares.Set(buckets)
	v.runs = NewShardedRuns(v.shares, logr.Discard())
	v.runs.from = v.server
	t.Cleanup(func() {
		if v.watch != nil {
			v.watch.Stop()
		}
		synctest.Wait()
		if open := v.server.open(); len(open) > 0 {
			t.Errorf("%d watches are left open", len(open))
		}
	})
	return v
}

// bubble is a test in a bubble of time.
func bubble(t *testing.T, buckets members.Buckets, test func(v *view)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newView(t, buckets)) })
}

// put stores a run: of the lower half of the buckets if low.
func (v *view) put(name string, low bool, options ...runOption) *v1alpha1.ChatRun {
	run := newRun(options...)
	run.Name = name
	run.UID = uidIn(v.random, func(uid string) bool { return lower.Has(members.BucketOf(uid)) == low })
	v.server.put(run)
	return run
}

func ours(run *v1alpha1.ChatRun) { run.Status.Worker = "me" }

// list lists, and returns the names.
func (v *view) list() string {
	v.Helper()
	object, err := v.runs.ListWithContext(v.Context(), metav1.ListOptions{ResourceVersion: "0", Limit: 7})
	list, ok := object.(*v1alpha1.ChatRunList)
	if err != nil || !ok {
		v.Fatalf("%T, %v", object, err)
	}
	names := make([]string, 0, len(list.Items))
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return strings.Join(names, " ")
}

// open watches from where it is.
func (v *view) open() {
	v.Helper()
	var err error
	if v.watch, err = v.runs.WatchWithContext(v.Context(), metav1.ListOptions{}); err != nil {
		v.Fatal(err)
	}
}

// sees waits for one event; empty means that the watch ends.
func (v *view) sees(kind watch.EventType, name string) *v1alpha1.ChatRun {
	v.Helper()
	e, ok := <-v.watch.ResultChan()
	if !ok {
		if kind != "" {
			v.Fatalf("the watch ended before %s %s", kind, name)
		}
		return nil
	}
	run, _ := e.Object.(*v1alpha1.ChatRun)
	if e.Type != kind || run != nil && run.Name != name {
		v.Fatalf("%s %v, not %s %s", e.Type, e.Object, kind, name)
	}
	return run
}

// quiet fails if there is an event, after all that is under way came to rest.
func (v *view) quiet() {
	v.Helper()
	synctest.Wait()
	select {
	case e, ok := <-v.watch.ResultChan():
		v.Fatalf("%v %s %v", ok, e.Type, e.Object)
	default:
	}
}

func TestShareIsListed(t *testing.T) {
	for _, filters := range []bool{true, false} {
		for _, tc := range []struct {
			buckets  members.Buckets
			want     string
			requests int
		}{
			{lower, "in1 in2 ours", 3},
			{^lower, "out1 ours", 3},
			{members.AllBuckets, "in1 in2 out1 ours", 2},
			{0, "ours", 2},
		} {
			bubble(t, tc.buckets, func(v *view) {
				v.server.filters, v.server.page = filters, 2
				v.put("in1", true)
				v.put("in2", true, ended(succeed, ""))
				v.put("out1", false)
				v.put("ours", tc.buckets != lower, ours)
				got := v.list()
				if sorted(got) != sorted(tc.want) {
					v.Errorf("%x: %q, not %q", tc.buckets, got, tc.want)
				}
				if _, lists := v.server.counts(); filters && lists > tc.requests {
					v.Errorf("%x: %d requests", tc.buckets, lists)
				}
				if v.runs.Watched() != tc.buckets {
					v.Errorf("it watches %x, not %x", v.runs.Watched(), tc.buckets)
				}
			})
		}
	}
}

// sorted puts words in order.
func sorted(words string) string {
	all := strings.Fields(words)
	for i := range all {
		for j := range all[:i] {
			if all[i] < all[j] {
				all[i], all[j] = all[j], all[i]
			}
		}
	}
	return strings.Join(all, " ")
}

// TestListShowsNoTexts: what the cache drops is not held while a list is put
// together either.
func TestListShowsNoTexts(t *testing.T) {
	bubble(t, lower, func(v *view) {
		v.put("long", true, ended(succeed, ""))
		_, list, err := v.runs.list(t.Context())
		if err != nil || len(list.Items) != 1 || list.Items[0].Spec.Prompt != "" {
			v.Errorf("%v, %v", list, err)
		}
	})
}

// TestNameOfTwoRuns: a run is deleted, and one of the other half has its name,
// whatever was told of first.
func TestNameOfTwoRuns(t *testing.T) {
	t.Run("between the lists", func(t *testing.T) {
		bubble(t, lower, func(v *view) {
			v.put("x", true)
			var next *v1alpha1.ChatRun
			v.server.then = func() {
				v.server.delete("x")
				next = v.put("x", false, ours)
			}
			_, list, err := v.runs.list(v.Context())
			if err != nil || len(list.Items) != 1 || list.Items[0].UID != next.UID {
				v.Errorf("%v, %v", list, err)
			}
		})
	})
	for _, late := range []bool{true, false} {
		for _, low := range []bool{true, false} {
			t.Run(fmt.Sprintf("outside late %v, inside first %v", late, low), func(t *testing.T) {
				bubble(t, lower, func(v *view) {
					v.put("x", low, ours)
					v.list()
					// One of the watches is late.
					v.server.late = func(outside bool) time.Duration {
						if outside == late {
							return time.Second
						}
						return 0
					}
					v.open()
					v.server.delete("x")
					next := v.put("x", !low, ours)
					for drained := false; !drained; {
						select {
						case e := <-v.watch.ResultChan():
							if run, _ := e.Object.(*v1alpha1.ChatRun); e.Type == watch.Deleted && run.UID == next.UID {
								v.Error("the one that stands was deleted")
							}
						case <-time.After(time.Minute):
							drained = true
						}
					}
					if m := v.runs.shown.here[keyOf(next)]; m.uid != next.UID {
						v.Errorf("%v is shown", m)
					}
				})
			})
		}
	}
}

// TestRunsComeAndGoAsTheyAreKept while they are outside of the share.
func TestRunsComeAndGoAsTheyAreKept(t *testing.T) {
	bubble(t, lower, func(v *view) {
		v.list()
		v.open()
		run := v.put("x", false)
		v.quiet()
		change := func(f func(*v1alpha1.ChatRun)) {
			f(run)
			v.server.put(run)
		}
		change(ours)
		v.sees(watch.Added, "x")
		change(func(*v1alpha1.ChatRun) {})
		v.sees(watch.Modified, "x")
		change(func(run *v1alpha1.ChatRun) { run.Status.Worker = "other" })
		if gone := v.sees(watch.Deleted, "x"); gone.Status.Worker != "other" {
			v.Errorf("%+v", gone.Status)
		}
		change(func(*v1alpha1.ChatRun) {})
		v.quiet()
		change(ours)
		v.sees(watch.Added, "x")
		change(func(run *v1alpha1.ChatRun) { run.Status.Phase = v1alpha1.PhaseFailed })
		v.sees(watch.Deleted, "x")
		change(func(*v1alpha1.ChatRun) {})
		v.server.delete("x")
		v.quiet()
	})
}

// TestWhoFilters is told once, by what can be seen.
func TestWhoFilters(t *testing.T) {
	for _, tc := range []struct {
		name          string
		filters, says bool
		runs          int
		want          string
	}{
		{"it says so", true, true, 1, "filters runs"},
		{"it must", true, false, 3 * certain, "filters runs"},
		{"too few to tell", true, false, 3, ""},
		{"it does not", false, false, 20, "does not filter"},
	} {
		bubble(t, lower, func(v *view) {
			v.server.filters, v.server.says = tc.filters, tc.says
			var lines []string
			v.runs.log = funcr.New(func(_, line string) { lines = append(lines, line) }, funcr.Options{})
			for i := range tc.runs {
				v.put(fmt.Sprint(i), i%2 == 0)
			}
			v.list()
			v.list()
			if got := strings.Join(lines, "\n"); strings.Count(got, "\n") > 0 || !strings.Contains(got, tc.want) || tc.want == "" && got != "" {
				v.Errorf("%s: %q", tc.name, got)
			}
		})
	}
}

// TestOtherKindsAreWhole: only runs are shared out.
func TestOtherKindsAreWhole(t *testing.T) {
	runs := NewShardedRuns(NewShares("me", nil), logr.Discard())
	runs.informer(&toolscache.ListWatch{}, &v1alpha1.ChatProvider{}, 0, toolscache.Indexers{})
	if runs.from != nil {
		t.Error("providers are listed as runs are")
	}
	if !runs.IsWatchListSemanticsUnSupported() {
		t.Error("a reflector would ask for a list that comes as events")
	}
}
