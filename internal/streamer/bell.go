// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"slices"
	"sync/atomic"
	"time"
)

const (
	// wideCrowd is a number of readers for whom a write costs milliseconds of CPU.
	wideCrowd = 250
	// perReader is what each reader of such a crowd adds to the time between two
	// writes. One costs some 12 µs, so the readers of one run take 6 % of a CPU,
	// however fast its model is.
	perReader = 200 * time.Microsecond
	// wideInterval bounds that time, at 1,250 readers: a text that comes in larger
	// pieces seems to stand still between them.
	wideInterval = 250 * time.Millisecond
)

// bell wakes one reader of a log, who may be one of thousands: a channel that they
// shared would have them all contend for it.
type bell struct {
	// rung has a value if there may be something to see to.
	rung chan struct{}
	// muffled says that nothing rings but what suffers no delay.
	muffled atomic.Bool
	// timed says that the timer fired, over that the reader went, or that the server
	// is closing. Whoever waits looks at them himself: what rings a bell that has rung
	// leaves nothing else.
	timed, over atomic.Bool
	// at is its place among those of its log, guarded like them.
	at int
	// hurried is set for good before its reader waits, if it rings for parts that are
	// held back as well: the reader has readers of its own.
	hurried bool
}

func (b *bell) ring() {
	select {
	case b.rung <- struct{}{}:
	default: // it has one to look at
	}
}

func (b *bell) time() {
	b.timed.Store(true)
	b.ring()
}

func (b *bell) end() {
	b.over.Store(true)
	b.ring()
}

// knowledge is how much of a log's news and alarms a reader knows of, and of all that
// was appended.
type knowledge struct{ news, alarms, all uint64 }

// knowledge is that of a reader who looks now; mu is held.
func (l *log) knowledge() knowledge {
	return knowledge{l.news.Load(), l.alarms.Load(), l.all.Load()}
}

// notify wakes the readers that wait.
func (l *log) notify(urgent bool) {
	l.count(urgent)
	l.ring(urgent)
}

// count counts news. A bell is to be rung for it.
func (l *log) count(urgent bool) {
	l.all.Add(1)
	l.news.Add(1)
	if urgent {
		l.alarms.Add(1)
	}
	if l.crowd.Load() >= wideCrowd {
		l.counted = time.Now()
	}
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
}

// ring wakes the readers that wait; mu need not be held.
func (l *log) ring(urgent bool) {
	l.ringing.Lock()
	defer l.ringing.Unlock()
	for _, b := range l.bells {
		if urgent || !b.muffled.Load() {
			b.ring()
		}
	}
}

// hold reports whether a part is to wait for others, since very many read the log: one
// timer for all of them counts and rings then.
func (l *log) hold() bool {
	crowd := l.crowd.Load()
	if crowd < wideCrowd || l.perReader == 0 {
		return false
	}
	if !l.holding {
		wait := time.Until(l.counted.Add(min(time.Duration(crowd)*l.perReader, wideInterval)))
		if wait <= 0 {
			return false
		}
		l.holding = true
		time.AfterFunc(wait, l.letGo)
	}
	l.all.Add(1)
	return true
}

// hurry rings for a part that is held back.
func (l *log) hurry() {
	l.ringing.Lock()
	defer l.ringing.Unlock()
	for _, b := range l.hurried {
		if !b.muffled.Load() {
			b.ring()
		}
	}
}

// letGo tells of the parts that were held. Those that come after the count are told of
// by themselves: nobody who read before it waits for what was held after.
func (l *log) letGo() {
	l.mu.Lock()
	l.holding = false
	l.count(false)
	l.mu.Unlock()
	l.ring(false)
}

// listen adds a bell, deafen takes it away.
func (l *log) listen(b *bell) {
	l.ringing.Lock()
	defer l.ringing.Unlock()
	b.at = len(l.bells)
	l.bells = append(l.bells, b)
	l.crowd.Store(int32(len(l.bells)))
}

// quicken makes a bell ring for parts that are held back as well.
func (l *log) quicken(b *bell) {
	l.ringing.Lock()
	defer l.ringing.Unlock()
	b.hurried = true
	l.hurried = append(l.hurried, b)
}

func (l *log) deafen(b *bell) {
	l.ringing.Lock()
	defer l.ringing.Unlock()
	end := len(l.bells) - 1
	l.bells[b.at] = l.bells[end]
	l.bells[b.at].at = b.at
	l.bells[end] = nil
	l.bells = l.bells[:end]
	l.crowd.Store(int32(end))
	if b.hurried {
		l.hurried = slices.DeleteFunc(l.hurried, func(other *bell) bool { return other == b })
	}
}
