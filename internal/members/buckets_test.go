// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/sharding"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// TestSelectorIsTheSet: the API server's own selector takes exactly the objects
// whose bucket is in the set.
func TestSelectorIsTheSet(t *testing.T) {
	sets := []Buckets{1, 1 << 63, 1<<63 | 1, 0x00ff00ff00ff00ff, AllBuckets >> 1, AllBuckets - 1, 0xaaaaaaaaaaaaaaaa}
	for bucket := range NumBuckets {
		sets = append(sets, Buckets(0).With(bucket))
	}
	for _, set := range sets {
		selector := set.Selector()
		for range 200 {
			uid := uuid.NewUUID()
			got, err := selector.Matches(&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{UID: uid}})
			if err != nil {
				t.Fatal(err)
			}
			if want := set.Has(BucketOf(string(uid))); got != want {
				t.Errorf("set %x, UID %s in bucket %d: the API server says %v", set, uid, BucketOf(string(uid)), got)
			}
		}
	}
	for _, set := range []Buckets{0, AllBuckets} {
		if got := set.Selector(); !got.Empty() {
			t.Errorf("%x: %q", set, got)
		}
	}
}

// TestBucketIsTheTopOfTheHash: bucket and hash agree digit by digit.
func TestBucketIsTheTopOfTheHash(t *testing.T) {
	for range 1000 {
		uid := string(uuid.NewUUID())
		hash, err := strconv.ParseUint(sharding.HashField(uid), 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := BucketOf(uid), int(hash/(1<<58)); got != want {
			t.Errorf("%s: bucket %d, not %d", uid, got, want)
		}
	}
}

// TestFirstIsFairAndSteady: names share evenly, whatever their order, and one that
// goes leaves the others what they had.
func TestFirstIsFairAndSteady(t *testing.T) {
	names := []string{"chatrun-manager-7d9f-aaaaa", "chatrun-manager-7d9f-aaaab", "chatrun-manager-7d9f-aaaac"}
	parts := map[string]int{}
	for i := range 3000 {
		key := string(types.UID(fmt.Sprint(i)))
		owner := first(names, key)
		parts[owner]++
		turned := slices.Clone(names)
		slices.Reverse(turned)
		if again := first(turned, key); again != owner {
			t.Fatalf("%s: %s, and %s in another order", key, owner, again)
		}
		if owner != names[0] {
			if left := first(names[1:], key); left != owner {
				t.Errorf("%s went from %s to %s as %s went", key, owner, left, names[0])
			}
		}
	}
	for _, name := range names {
		if parts[name] < 900 || parts[name] > 1100 {
			t.Errorf("parts are not even: %v", parts)
		}
	}
	if got := first(nil, "key"); got != "" {
		t.Errorf("nobody: %q", got)
	}
}
