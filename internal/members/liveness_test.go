// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"maps"
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestTenureEndsByEitherClock: a machine that was suspended has a clock that stood
// still, and one that went on.
func TestTenureEndsByEitherClock(t *testing.T) {
	start := time.Now() // it has both clocks
	held := tenure{}.renewed(start, 10*time.Second)
	for _, tc := range []struct {
		name string
		now  time.Time
		held bool
	}{
		{"a moment before the end", start.Add(10*time.Second - 1), true},
		{"at the end", start.Add(10 * time.Second), false},
		{"slept over it", start.Add(10 * time.Second).Round(0), false},
		{"slept, and not over it", start.Add(10*time.Second - 1).Round(0), true},
		{"long before", start.Add(-time.Hour), true},
	} {
		if got := held.held(tc.now); got != tc.held || held.over(tc.now) == tc.held {
			t.Errorf("%s: held %v, over %v", tc.name, got, held.over(tc.now))
		}
	}
	if fenced := (tenure{until: start.Add(time.Hour), fenced: true}); fenced.held(start) || fenced.over(start) {
		t.Error("what is fenced is neither held nor to be fenced")
	}
	if (tenure{fenced: true}).held(start) || (tenure{}).held(start) {
		t.Error("held before the first renewal")
	}
}

func leaseBy(holder string, renewed time.Time, change ...func(*coordinationv1.Lease)) *coordinationv1.Lease {
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: "b", Annotations: map[string]string{}},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &holder, RenewTime: &metav1.MicroTime{Time: renewed},
			LeaseDurationSeconds: new(int32(15)), LeaseTransitions: new(int32(1)),
		},
	}
	for _, c := range change {
		c(lease)
	}
	return lease
}

// TestWhatALeaseSaysIsTakenByOurClockAlone: whatever time a record bears, it is as
// old as when we first saw it, and a new one is new.
func TestWhatALeaseSaysIsTakenByOurClockAlone(t *testing.T) {
	now := time.Now()
	for _, theirs := range []time.Duration{0, 10 * time.Second, -10 * time.Second, time.Hour, -24 * 365 * time.Hour} {
		first := look(leaseBy("b_1", now.Add(theirs)), now)
		if first.state() != Live || !first.due().Equal(now.Add(15*time.Second)) {
			t.Errorf("a clock that is %v ahead: %+v", theirs, first)
		}
		later := now.Add(14 * time.Second)
		same := look(leaseBy("b_1", now.Add(theirs)), later).after(first)
		if !same.due().Equal(first.due()) {
			t.Errorf("seen again: due at %v, not %v", same.due(), first.due())
		}
		for name, renewed := range map[string]*coordinationv1.Lease{
			"forward":    leaseBy("b_1", now.Add(theirs+time.Second)),
			"back":       leaseBy("b_1", now.Add(theirs-time.Hour)),
			"by another": leaseBy("b_2", now.Add(theirs)),
			"taken anew": leaseBy("b_1", now.Add(theirs), func(l *coordinationv1.Lease) { l.Spec.LeaseTransitions = new(int32(2)) }),
		} {
			if next := look(renewed, later).after(first); !next.due().Equal(later.Add(15 * time.Second)) {
				t.Errorf("renewed %s: due at %v", name, next.due())
			}
		}
		edited := leaseBy("b_1", now.Add(theirs), func(l *coordinationv1.Lease) {
			l.Labels, l.ResourceVersion = map[string]string{"edited": "yes"}, "9"
			l.Annotations[annotationAddress] = "10.0.0.1:8091"
		})
		if next := look(edited, later).after(first); !next.due().Equal(first.due()) || next.address != "10.0.0.1:8091" {
			t.Errorf("an edit keeps nobody alive: %+v", next)
		}
	}
}

func TestStateOfALease(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct {
		name  string
		lease *coordinationv1.Lease
		state State
	}{
		{"held", leaseBy("b_1", now), Live},
		{"given back", leaseBy("", now), Gone},
		{"of nobody", &coordinationv1.Lease{}, Gone},
		{"draining", leaseBy("b_1", now, func(l *coordinationv1.Lease) { l.Annotations[annotationDraining] = drainingYes }), Draining},
		{"draining, and given back", leaseBy("", now, func(l *coordinationv1.Lease) { l.Annotations[annotationDraining] = drainingYes }), Gone},
		{"not quite draining", leaseBy("b_1", now, func(l *coordinationv1.Lease) { l.Annotations[annotationDraining] = "no" }), Live},
	} {
		if got := look(tc.lease, now).state(); got != tc.state {
			t.Errorf("%s: %d", tc.name, got)
		}
	}
	long := look(leaseBy("b_1", now, func(l *coordinationv1.Lease) { l.Spec.LeaseDurationSeconds = new(int32(1 << 30)) }), now)
	if !long.due().Equal(now.Add(maxDuration)) {
		t.Errorf("a Lease of 34 years is due at %v", long.due())
	}
	lapsed := look(leaseBy("b_1", now), now).read(leaseBy("b_1", now), now.Add(15*time.Second))
	if lapsed.state() != Gone {
		t.Error("a Lease that a read finds unchanged after its duration did not lapse")
	}
	if soon := look(leaseBy("b_1", now), now).read(leaseBy("b_1", now), now.Add(15*time.Second-1)); soon.state() != Live {
		t.Error("it lapsed before its duration")
	}
}

// TestWatchesOfALease: who says nothing watches all, who says nonsense nothing.
func TestWatchesOfALease(t *testing.T) {
	for text, want := range map[string]Buckets{"": 0, "00000000000000ff": 0xff, "ffffffffffffffff": AllBuckets, "everything": 0, "-1": 0} {
		got := look(leaseBy("b_1", time.Now(), func(l *coordinationv1.Lease) { l.Annotations[annotationWatches] = text }), time.Now()).watches
		if got != want {
			t.Errorf("%q: %s", text, got)
		}
	}
	if got := look(leaseBy("b_1", time.Now()), time.Now()).watches; got != AllBuckets {
		t.Errorf("without a word: %s", got)
	}
}

// TestViewSharesAmongThoseThatTakeOn: all buckets fall to live replicas alone, and a
// rank is a place in one order.
func TestViewSharesAmongThoseThatTakeOn(t *testing.T) {
	v := newView(map[string]State{"a": Live, "b": Live, "c": Live, "d": Draining}, nil, nil)
	parts := map[string]int{}
	for bucket, owner := range v.owners {
		parts[owner]++
		ranks := map[int]string{}
		for _, name := range v.names {
			rank, ok := v.rank(name, "default", bucketKey(bucket))
			if !ok {
				t.Fatalf("%s has no rank", name)
			}
			ranks[rank] = name
		}
		if len(ranks) != 3 || ranks[0] != owner {
			t.Errorf("bucket %d of %s: ranks %v", bucket, owner, ranks)
		}
		// The next in the order takes over what the first leaves.
		without := map[string]State{"a": Live, "b": Live, "c": Live}
		delete(without, owner)
		if next := newView(without, nil, nil).owners[bucket]; next != ranks[1] {
			t.Errorf("bucket %d: %s is next, and %s takes over", bucket, ranks[1], next)
		}
	}
	if names := slices.Sorted(maps.Keys(parts)); !slices.Equal(names, []string{"a", "b", "c"}) {
		t.Errorf("buckets of %v", parts)
	}
	if _, ok := v.rank("d", "default", "key"); ok {
		t.Error("one that drains has a rank")
	}
	if owner := newView(nil, nil, nil).owners[7]; owner != "" {
		t.Errorf("nobody: %q", owner)
	}
}
