// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import "sync/atomic"

// Counts are what a handler does at one moment, and what it did since it began.
type Counts struct {
	// Readers are served, or wait for a run to be created. RefusedReaders were
	// answered with 429.
	Readers        int
	RefusedReaders uint64
	// Fetched are the runs that are read from other replicas, and Forwarded those
	// that other replicas read here. RefusedRelays were answered with 429.
	Fetched, Forwarded int
	RefusedRelays      uint64
	// Frames were copied from other replicas.
	Frames uint64
}

// counts are a handler's own.
type counts struct {
	refusedReaders, refusedRelays, frames atomic.Uint64
	fetched                               atomic.Int64
}

// Counts returns them.
func (h *Handler) Counts() Counts {
	c := &h.counts
	return Counts{
		Readers: h.seats.taken(), RefusedReaders: c.refusedReaders.Load(),
		Fetched: int(c.fetched.Load()), Forwarded: h.relays.taken(), RefusedRelays: c.refusedRelays.Load(),
		Frames: c.frames.Load(),
	}
}
