// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/bits"

	"k8s.io/apimachinery/pkg/sharding"
)

// NumBuckets is into how many ranges of equal size the hash of UIDs is divided.
// A share is a set of them, so it changes in steps of a 64th, and names itself in
// one query.
const NumBuckets = 64

// Buckets is a set of buckets: bit i is bucket i.
type Buckets uint64

// AllBuckets holds every bucket.
const AllBuckets = ^Buckets(0)

// BucketOf returns the bucket of a UID. The hash is the one that the API server's
// sharded list and watch uses (KEP-5866), FNV-1a of 64 bits, so that a bucket is a
// range of it.
func BucketOf(uid string) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(uid)) // it never fails
	return int(h.Sum64() >> (64 - bits.Len(NumBuckets-1)))
}

// Has reports whether a bucket is in the set.
func (b Buckets) Has(bucket int) bool { return b>>bucket&1 == 1 }

// With returns the set with a bucket added.
func (b Buckets) With(bucket int) Buckets { return b | 1<<bucket }

// String returns the set as 16 digits.
func (b Buckets) String() string { return fmt.Sprintf("%016x", uint64(b)) }

// Selector returns the set as the API server's own: one range for neighbours. The
// empty set, which no selector can say, and the full one, which needs none, give
// one that is empty and takes everything.
func (b Buckets) Selector() sharding.Selector {
	if b == 0 || b == AllBuckets {
		return sharding.Everything()
	}
	var ranges []sharding.ShardRangeRequirement
	for from := 0; from < NumBuckets; {
		if !b.Has(from) {
			from++
			continue
		}
		to := from
		for to < NumBuckets && b.Has(to) {
			to++
		}
		ranges = append(ranges, sharding.ShardRangeRequirement{Key: shardKey, Start: bound(from), End: bound(to)})
		from = to
	}
	return sharding.NewSelector(ranges...)
}

// shardKey is the field that is hashed.
const shardKey = "object.metadata.uid"

// bound is where a bucket begins. That of the bucket after the last is 2^64, which
// has a digit more.
func bound(bucket int) string {
	if bucket == NumBuckets {
		return "0x10000000000000000"
	}
	return fmt.Sprintf("0x%016x", uint64(bucket)<<(64-bits.Len(NumBuckets-1)))
}

// first returns the name of highest rendezvous weight for a key; empty if there
// are no names. Whoever knows the same names finds the same one, and a name that
// comes or goes changes nothing but its own part.
func first(names []string, key string) string {
	best, weight := "", uint64(0)
	for _, name := range names {
		// A hash that mixes well: FNV of names that differ in the last letter
		// would give one of them nearly everything.
		sum := sha256.Sum256([]byte(name + "\x00" + key))
		if w := binary.BigEndian.Uint64(sum[:]); best == "" || w > weight || w == weight && name < best {
			best, weight = name, w
		}
	}
	return best
}

// bucketKey is what a bucket is called where names compete for it.
func bucketKey(bucket int) string { return fmt.Sprintf("bucket-%d", bucket) }
