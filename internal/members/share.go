// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

// Share returns the buckets whose runs a replica watches: those that fall to it,
// and those that it watches now and whose owner does not watch them yet, so that a
// change of members leaves no bucket unwatched. me is the replica, owners are to
// whom the buckets fall, empty for one that falls to nobody, watchedNow is what
// this replica watches, and watchedBy what the others say that they do, by name.
func Share(me string, owners [NumBuckets]string, watchedNow Buckets, watchedBy map[string]Buckets) Buckets {
	share := Buckets(0)
	for bucket, owner := range owners {
		if owner == me || watchedNow.Has(bucket) && !watchedBy[owner].Has(bucket) {
			share = share.With(bucket)
		}
	}
	return share
}
