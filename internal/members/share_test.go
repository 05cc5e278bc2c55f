// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestShare(t *testing.T) {
	owners := func(names ...string) (all [NumBuckets]string) {
		copy(all[:], names)
		return all
	}
	for _, tc := range []struct {
		name   string
		owners [NumBuckets]string
		now    Buckets
		by     map[string]Buckets
		want   Buckets
	}{
		{"what falls to it, watched or not", owners("me", "me", "other"), 0b001, map[string]Buckets{"other": 0b100}, 0b011},
		{"also if somebody else watches it", owners("me"), 0, map[string]Buckets{"other": 1}, 1},
		{"what another does not watch yet", owners("me", "other", "other"), 0b111, map[string]Buckets{"other": 0b010}, 0b101},
		{"another who says nothing", owners("me", "other"), 0b11, nil, 0b11},
		{"a third one watches it, but need not stay", owners("me", "other"), 0b11, map[string]Buckets{"third": 0b10}, 0b11},
		{"never watched, not its own", owners("other", "other"), 0, nil, 0},
		{"nobody's is kept", owners("", "me"), 0b01, map[string]Buckets{}, 0b11},
	} {
		tc.owners = fill(tc.owners, "far")
		if tc.by == nil {
			tc.by = map[string]Buckets{}
		}
		tc.by["far"] = AllBuckets
		if got := Share("me", tc.owners, tc.now, tc.by); got != tc.want {
			t.Errorf("%s: %b, not %b", tc.name, got, tc.want)
		}
	}
}

// fill gives the buckets after the tenth to somebody.
func fill(owners [NumBuckets]string, name string) [NumBuckets]string {
	for bucket := 10; bucket < NumBuckets; bucket++ {
		owners[bucket] = name
	}
	return owners
}

// TestChangesLeaveNoBucketUnwatched: replicas come and go, and each applies what it
// knows at a time of its own. Every bucket is watched at all times by one that
// lives, unless the only one that did died, and in the end by its owner alone.
func TestChangesLeaveNoBucketUnwatched(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	live, watched := []string{"a"}, map[string]Buckets{"a": AllBuckets}
	next := 'b'
	step := func(me string) {
		var owners [NumBuckets]string
		for bucket := range owners {
			owners[bucket] = first(live, bucketKey(bucket))
		}
		watched[me] = Share(me, owners, watched[me], watched)
	}
	for round := range 300 {
		if len(live) > 1 && random.IntN(3) == 0 {
			// It hands over: it no more counts as an owner, goes on, and ends when its
			// share is empty.
			leaver := live[random.IntN(len(live))]
			live = slices.DeleteFunc(live, func(name string) bool { return name == leaver })
		} else if len(live) < 6 {
			live = append(live, string(next))
			next++
		}
		for range random.IntN(30) {
			names := make([]string, 0, len(watched))
			for name := range watched {
				names = append(names, name)
			}
			names = append(names, live...)
			slices.Sort(names)
			step(names[random.IntN(len(names))])
			union := Buckets(0)
			for _, set := range watched {
				union |= set
			}
			if union != AllBuckets {
				t.Fatalf("round %d: %x is watched", round, union)
			}
		}
	}
	for range 2 {
		for _, name := range append(slices.Clone(live), keys(watched)...) {
			step(name)
		}
	}
	sum := Buckets(0)
	for name, set := range watched {
		if sum&set != 0 {
			t.Errorf("%s watches %x, which another does", name, sum&set)
		}
		if set != 0 && !slices.Contains(live, name) {
			t.Errorf("%s has left, and watches %x", name, set)
		}
		sum |= set
	}
	if sum != AllBuckets {
		t.Errorf("%x is watched", sum)
	}
}

func keys(watched map[string]Buckets) []string {
	names := make([]string, 0, len(watched))
	for name := range watched {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
