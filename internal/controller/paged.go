// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"

	"chatrun.dev/operator/api/v1alpha1"
)

// How many runs are asked for at a time. Their long texts, of which a cache keeps none,
// and those runs that it drops, are held for a page alone. What etcd takes of one run,
// 1.5 MiB, would make a page of the most nearly a gigabyte, so it begins with few, and
// goes on with as many as hold pageBytes of text if they are like those before. Of 100 at
// a time a list takes 1.4 times as long as of 500.
const (
	firstPage = 50
	maxPage   = 500
	pageBytes = 16 << 20
)

// nextPage is how many runs to ask for after a page of so many at most with so much text.
func nextPage(limit int64, size int) int64 {
	next := min(2*limit, maxPage)
	if size > 0 {
		next = min(next, limit*pageBytes/int64(size))
	}
	return max(next, 1)
}

// textSize is how long the texts of runs are, of which the cache keeps none.
func textSize(runs []v1alpha1.ChatRun) (size int) {
	for i := range runs {
		size += questionSize(&runs[i].Spec)
		if out := runs[i].Status.Output; out != nil {
			size += len(out.Text)
		}
	}
	return size
}

// pagedRuns lists runs page by page, and strips each page before the next comes. As
// events of one watch, client-go's own way, they take no more memory, but nearly twice
// the time: the JSON of an event is read five times over.
type pagedRuns struct {
	toolscache.ListerWatcherWithContext
}

// pagedInformer makes a cache's informers.
func pagedInformer(from toolscache.ListerWatcher, object runtime.Object, resync time.Duration, by toolscache.Indexers) toolscache.SharedIndexInformer {
	return toolscache.NewSharedIndexInformer(paged(from, object), object, resync, by)
}

// paged lets runs alone be listed page by page.
func paged(from toolscache.ListerWatcher, object runtime.Object) toolscache.ListerWatcher {
	if _, ok := object.(*v1alpha1.ChatRun); !ok {
		return from
	}
	return pagedRuns{toolscache.ToListerWatcherWithContext(from)}
}

// IsWatchListSemanticsUnSupported makes the reflector list.
func (pagedRuns) IsWatchListSemanticsUnSupported() bool { return true }

// List implements cache.Lister, for those who know no contexts.
func (p pagedRuns) List(o metav1.ListOptions) (runtime.Object, error) {
	return p.ListWithContext(context.Background(), o)
}

// Watch implements cache.Watcher, likewise.
func (p pagedRuns) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return p.WatchWithContext(context.Background(), o)
}

// ListWithContext lists all runs as they are now: the API server has pages of the
// latest state alone.
func (p pagedRuns) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	o.ResourceVersion, o.ResourceVersionMatch = "", ""
	all := &v1alpha1.ChatRunList{}
	err := eachPage(ctx, p.ListerWatcherWithContext, o, func(page *v1alpha1.ChatRunList) error {
		all.ListMeta = metav1.ListMeta{ResourceVersion: page.ResourceVersion}
		for i := range page.Items {
			if _, err := slim(&page.Items[i]); err != nil {
				return err
			}
		}
		all.Items = append(all.Items, page.Items...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// eachPage passes the pages of a list on, all of which have the version of the first.
func eachPage(ctx context.Context, from toolscache.ListerWithContext, o metav1.ListOptions, pass func(*v1alpha1.ChatRunList) error) error {
	for o.Limit = firstPage; ; {
		object, err := from.ListWithContext(ctx, o)
		if err != nil {
			return fmt.Errorf("listing runs: %w", err)
		}
		page, ok := object.(*v1alpha1.ChatRunList)
		if !ok {
			return fmt.Errorf("listing runs: the answer is a %T", object)
		}
		o.Limit = nextPage(o.Limit, textSize(page.Items)) // pass strips them
		if err := pass(page); err != nil {
			return err
		}
		if page.Continue == "" {
			return nil
		}
		o.Continue = page.Continue
	}
}

var _ toolscache.ListerWatcherWithContext = pagedRuns{}
