// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"maps"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
)

const (
	// shrinkPause is the least time between a list and one that only makes the share
	// smaller, which costs a list and saves memory alone.
	shrinkPause = time.Minute
	// rekeepPause is the same for one that only asks Keep again: many providers may
	// change at once.
	rekeepPause = time.Second
	// maxGone bounds how many runs that are gone are remembered where no bookmark
	// tells that they can be forgotten.
	maxGone = 4096
)

// shown are the runs that were passed on to the cache. The cache knows runs by name,
// and a name may go from a run of one half to one of the other, whose watches know
// nothing of each other: what comes late must not undo what came in time.
type shown struct {
	here, gone map[types.NamespacedName]mark
}

// mark is a run, and the version that was passed on last.
type mark struct {
	uid types.UID
	at  uint64
}

// shownOf returns what is shown after a list.
func shownOf(runs []v1alpha1.ChatRun) *shown {
	h := &shown{here: make(map[types.NamespacedName]mark, len(runs)), gone: map[types.NamespacedName]mark{}}
	for i := range runs {
		h.here[client.ObjectKeyFromObject(&runs[i])] = markOf(&runs[i])
	}
	return h
}

func markOf(run *v1alpha1.ChatRun) mark {
	return mark{uid: run.UID, at: version(run.ResourceVersion)}
}

// version returns a resource version as a number: those of one kind can be
// compared. 0 stands for what is none.
func version(v string) uint64 {
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// judge returns what an event is to the cache, and false if it is nothing. kept says
// whether the run, as it is now, is to be in the cache.
func (h *shown) judge(kind watch.EventType, run *v1alpha1.ChatRun, kept bool) (watch.EventType, bool) {
	key, next := client.ObjectKeyFromObject(run), markOf(run)
	last, there := h.here[key]
	if kind == watch.Deleted || !kept {
		if !there || last.uid != next.uid {
			return "", false
		}
		delete(h.here, key)
		h.gone[key] = next
		return watch.Deleted, true
	}
	if !there {
		last = h.gone[key]
	}
	if last.uid != next.uid && last.at > next.at {
		return "", false // another has had its name since
	}
	delete(h.gone, key)
	h.here[key] = next
	if there {
		return watch.Modified, true
	}
	return watch.Added, true
}

// forget forgets runs that are gone for longer than any event can be late: all
// watches have come to version low.
func (h *shown) forget(low uint64) {
	maps.DeleteFunc(h.gone, func(_ types.NamespacedName, m mark) bool { return m.at <= low })
}

// change is an event that the cache needs to have what a list found.
type change struct {
	kind watch.EventType
	key  types.NamespacedName
	// index is that of the run in the list; -1 if it is gone.
	index int
}

// changes returns the events that lead from what is shown to what was listed, those
// of runs that leave first.
func (h *shown) changes(runs []v1alpha1.ChatRun) []change {
	next := shownOf(runs)
	var all []change
	for key := range h.here {
		if _, stays := next.here[key]; !stays {
			all = append(all, change{watch.Deleted, key, -1})
		}
	}
	for i := range runs {
		key := client.ObjectKeyFromObject(&runs[i])
		switch last, there := h.here[key]; {
		case !there:
			all = append(all, change{watch.Added, key, i})
		case last != next.here[key]:
			all = append(all, change{watch.Modified, key, i})
		}
	}
	return all
}

// pause returns how long after the last list another one is due because the share
// went from one set of buckets to another, or Keep's answers changed; never if it
// is not.
func pause(from, to members.Buckets, rekept bool) (after time.Duration, never bool) {
	switch {
	case to&^from != 0:
		return 0, false // somebody else may stop watching, or be dead
	case rekept:
		return rekeepPause, false
	case to != from:
		return shrinkPause, false
	}
	return 0, true
}
