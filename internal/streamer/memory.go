// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultLogBytes bounds the frames that a log keeps. It holds answers of some
// 25,000 tokens whole, and of longer ones the end; common ones stay far below.
const DefaultLogBytes = 4 << 20

// DefaultTotalBytes bounds the frames of all logs: half of what config/manager
// allows the process.
const DefaultTotalBytes = 512 << 20

// DefaultGrace is long enough for a browser to come back, and for a laptop to
// change networks.
const DefaultGrace = time.Minute

// memory counts what all logs of a hub hold.
type memory struct {
	held atomic.Int64
	// relieving is held by the one that cuts back.
	relieving sync.Mutex
}

// Of a log's bytes a quarter is for frames that are no parts, so that many
// retries leave room for text, and the rest for parts.
func partsLimit(limit int) int    { return limit - controlsLimit(limit) }
func controlsLimit(limit int) int { return limit / 4 }

// trim drops the oldest parts, and, apart from them, the oldest of other frames:
// of thousands of retries, which nobody who still reads is behind. It goes a
// quarter below the limit, so that it is seldom needed.
func (l *log) trim(bytes int) {
	if limit := partsLimit(bytes); l.parts > limit {
		l.hear()
		l.remove(func(f *frame) bool {
			if !f.part || l.parts <= limit-limit/4 {
				return false
			}
			l.episode.cut = f.seq
			return true
		})
	}
	if limit := controlsLimit(bytes); l.controls > limit {
		l.remove(func(f *frame) bool {
			if f.part || l.controls <= limit-limit/4 {
				return false
			}
			l.lost = f.seq
			return true
		})
	}
}

// remove takes frames out of the log. Readers hold nothing of the slice, so it
// may be changed, and is given back where little is left of it.
func (l *log) remove(which func(*frame) bool) {
	l.frames = slices.DeleteFunc(l.frames, func(f frame) bool {
		if !which(&f) {
			return false
		}
		*l.sum(&f) -= f.cost()
		return true
	})
	if cap(l.frames) > minSlack && cap(l.frames) > 4*len(l.frames) {
		l.frames = slices.Clone(l.frames)
	}
}

// sum is the one that the cost of a frame belongs to.
func (l *log) sum(f *frame) *int {
	if f.part {
		return &l.parts
	}
	return &l.controls
}

// minSlack is how many empty places of a log are not worth giving back.
const minSlack = 64

// account tells memory what the log holds now. The text of an episode under way
// belongs to the answer in the making, which MaxAnswerBytes bounds; that of a run
// which is finished is held for late readers alone, that of a copy for those who
// read text.
func (l *log) account() {
	if l.released {
		return
	}
	held := l.parts + l.controls
	if l.state == ended {
		held += len(l.episode.text)
	}
	l.memory.held.Add(int64(held - l.held))
	l.held = held
}

// release says that nobody holds the log any more.
func (l *log) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mirror != nil {
		l.mirror.end()
	}
	l.memory.held.Add(int64(-l.held))
	l.held, l.released = 0, true
}

// shrink cuts the log back, unless it ended meanwhile: its final frames stay.
func (l *log) shrink(bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != live {
		return
	}
	l.trim(bytes)
	l.account()
}

// Bytes returns what all logs hold at this moment.
func (h *Hub) Bytes() int { return int(h.memory.held.Load()) }

// relieve keeps all logs together within TotalBytes. Logs of finished runs go
// first, the oldest before others: their readers are cut, and find the text in
// the run's object when they come back. Then the longest are cut back to one
// length, so that one long answer, and not a hundred short ones, loses what its
// slow readers have not read.
//
// It begins an eighth below the bound, while others go on. Near the bound they
// wait for it: what they add meanwhile is a frame each.
func (h *Hub) relieve() {
	soft, hard := h.TotalBytes-h.TotalBytes/8, h.TotalBytes-h.TotalBytes/16
	switch held := h.Bytes(); {
	case held <= soft:
		return
	case held > hard:
		h.memory.relieving.Lock()
	case !h.memory.relieving.TryLock():
		return
	}
	defer h.memory.relieving.Unlock()
	if h.Bytes() <= soft {
		return // another one did it meanwhile
	}
	// A quarter below the bound, so that this is seldom needed.
	target := h.TotalBytes - h.TotalBytes/4
	logs := h.retained()
	for len(logs) > 0 && logs[0].ended && h.Bytes() > target {
		h.evict(logs[0].log)
		logs = logs[1:]
	}
	if excess := h.Bytes() - target; excess > 0 {
		level := levelFor(logs, excess)
		for _, r := range logs {
			if r.held > level {
				r.log.shrink(level)
			}
		}
	}
}

// retained is a log as relieve sees it.
type retained struct {
	log   *log
	ended bool
	since time.Time
	held  int
}

// retained lists the logs: those of finished runs first, the oldest before
// others.
func (h *Hub) retained() []retained {
	h.mu.RLock()
	logs := make([]retained, 0, len(h.logs))
	for _, l := range h.logs {
		logs = append(logs, retained{log: l})
	}
	h.mu.RUnlock()
	for i := range logs {
		l := logs[i].log
		l.mu.Lock()
		logs[i].ended, logs[i].since, logs[i].held = l.state == ended, l.over, l.held
		l.mu.Unlock()
	}
	slices.SortFunc(logs, func(a, b retained) int {
		if a.ended != b.ended {
			if a.ended {
				return -1
			}
			return 1
		}
		return a.since.Compare(b.since)
	})
	return logs
}

// levelFor returns the length to which all longer logs have to be cut back, so
// that together they give up excess.
func levelFor(logs []retained, excess int) int {
	sizes := make([]int, 0, len(logs)+1)
	for _, r := range logs {
		sizes = append(sizes, r.held)
	}
	slices.SortFunc(sizes, func(a, b int) int { return cmp.Compare(b, a) })
	sizes = append(sizes, 0)
	for i := 1; i < len(sizes); i++ {
		// All i longest are cut to the next one's length, unless less will do.
		if step := (sizes[i-1] - sizes[i]) * i; step < excess {
			excess -= step
			continue
		}
		return sizes[i-1] - (excess+i-1)/i
	}
	return 0
}
