// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"fmt"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
)

// TestRunsFallToThoseThatWatchThem: whoever watches all namespaces or a run's own takes
// it on, and nobody else; and what those that watch all share among each other hangs on
// no others.
func TestRunsFallToThoseThatWatchThem(t *testing.T) {
	states := map[string]State{"all-1": Live, "all-2": Live, "a": Live, "ab": Live, "b-drains": Draining}
	scopes := map[string]scope{"a": scopeOf([]string{"a"}), "ab": scopeOf([]string{"b", "a", "b"}), "b-drains": scopeOf([]string{"b"})}
	v := newView(states, nil, scopes)
	for namespace, want := range map[string]string{"a": "[a ab all-1 all-2]", "b": "[ab all-1 all-2]", "c": "[all-1 all-2]", "": "[all-1 all-2]"} {
		if got := fmt.Sprint(v.in(namespace)); got != want {
			t.Errorf("%q falls to %s, want %s", namespace, got, want)
		}
	}
	alone := newView(map[string]State{"all-1": Live, "all-2": Live}, nil, nil)
	for bucket := range NumBuckets {
		owner := v.owner("a", bucket)
		if v.owners[bucket] != alone.owners[bucket] {
			t.Errorf("bucket %d: %s among those that watch all, %s by themselves", bucket, v.owners[bucket], alone.owners[bucket])
		}
		if (owner == "all-1" || owner == "all-2") && owner != v.owners[bucket] {
			t.Errorf("bucket %d: a run falls to %s, whose share it is not in", bucket, owner)
		}
		if rank, ok := v.rank(owner, "a", bucketKey(bucket)); !ok || rank != 0 {
			t.Errorf("bucket %d: its owner has rank %d", bucket, rank)
		}
		if _, ok := v.rank("a", "b", bucketKey(bucket)); ok {
			t.Error("one that does not watch a namespace has a rank there")
		}
	}
}

// TestScopeStandsInTheLease: and one that was read is the one that was written.
func TestScopeStandsInTheLease(t *testing.T) {
	m, _ := lonely(t)
	m.o.Namespaces = []string{"team-b", "team-a"}
	lease := &coordinationv1.Lease{}
	m.describe(lease)
	if got := lease.Annotations[annotationScope]; got != "team-a,team-b" {
		t.Errorf("the Lease says %q", got)
	}
	got := look(lease, time.Now()).scope
	if !got.has("team-a") || !got.has("team-b") || got.has("team") || got.has("") {
		t.Errorf("scope %q", got)
	}
	m.o.Namespaces = nil
	m.describe(lease)
	if _, there := lease.Annotations[annotationScope]; there {
		t.Error("what an earlier process of the name watched stands in the Lease still")
	}
	if got := look(lease, time.Now()).scope; !got.has("any") {
		t.Errorf("without a word: scope %q", got)
	}
}

// TestWhoDoesNotWatchARunIsGoneToIt: so that one which was told to watch less holds up
// none of the runs that it had.
func TestWhoDoesNotWatchARunIsGoneToIt(t *testing.T) {
	lease := leaseOf("other")
	lease.Annotations = map[string]string{annotationScope: "elsewhere"}
	m, _ := lonely(t, lease)
	askGone(t, m, "other", true)
	if gone, err := m.Gone(t.Context(), "elsewhere", "other"); err != nil || gone {
		t.Errorf("gone where it watches: %v, %v", gone, err)
	}
	if here, there := m.State("default", "other"), m.State("elsewhere", "other"); here != Gone || there != Live {
		t.Errorf("states %d and %d", here, there)
	}
	m.refresh()
	if len(m.WatchedBy()) != 0 {
		t.Error("it counts as one of those that share all runs")
	}
}
