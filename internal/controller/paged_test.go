// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/watchlist"

	"chatrun.dev/operator/api/v1alpha1"
)

// book is an API server that lists runs in pages.
type book struct {
	pages [][]v1alpha1.ChatRun
	asked []metav1.ListOptions
	fault error // of the second page
	// sent are the pages that it has sent.
	sent []*v1alpha1.ChatRunList
	// kept says, of each page but the first, whether the one before still had a text
	// when it was asked for.
	kept []bool
}

func (b *book) list(_ context.Context, o metav1.ListOptions) (runtime.Object, error) {
	b.asked = append(b.asked, o)
	n := len(b.sent)
	if n > 0 {
		b.kept = append(b.kept, slices.ContainsFunc(b.sent[n-1].Items, func(run v1alpha1.ChatRun) bool { return run.Status.Output.Text != "" }))
	}
	if n == 1 && b.fault != nil {
		return nil, b.fault
	}
	page := &v1alpha1.ChatRunList{ListMeta: metav1.ListMeta{ResourceVersion: "7"}, Items: b.pages[n]}
	if n < len(b.pages)-1 {
		page.Continue = fmt.Sprint("after-", n)
	}
	b.sent = append(b.sent, page)
	return page, nil
}

func (b *book) runs() pagedRuns {
	return pagedRuns{&toolscache.ListWatch{ListWithContextFunc: b.list}}
}

// bound makes a book of finished runs with an answer each.
func bound(sizes ...int) *book {
	b := &book{}
	for page, size := range sizes {
		var runs []v1alpha1.ChatRun
		for i := range size {
			run := v1alpha1.ChatRun{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprintf("%d-%d", page, i)}}
			run.Spec.Prompt = "why?"
			run.Status.Output = &v1alpha1.Output{Text: "because", Bytes: new(int64(7))}
			run.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionFinished, Status: metav1.ConditionTrue}}
			runs = append(runs, run)
		}
		b.pages = append(b.pages, runs)
	}
	return b
}

// TestRunsAreListedByPages: all of them, of the latest state, each page stripped before
// the next is asked for.
func TestRunsAreListedByPages(t *testing.T) {
	b := bound(3, 3, 1)
	object, err := b.runs().ListWithContext(t.Context(), metav1.ListOptions{
		ResourceVersion: "0", ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, LabelSelector: "a=b",
	})
	if err != nil {
		t.Fatal(err)
	}
	list := object.(*v1alpha1.ChatRunList)
	var names []string
	for i := range list.Items {
		run := &list.Items[i]
		names = append(names, run.Name)
		if run.Spec.Prompt != "" || run.Status.Output.Text != "" || *run.Status.Output.Bytes != 7 {
			t.Errorf("%s is not stripped as the cache strips it: %+v", run.Name, run)
		}
	}
	if want := []string{"0-0", "0-1", "0-2", "1-0", "1-1", "1-2", "2-0"}; !slices.Equal(names, want) {
		t.Errorf("runs %q, not %q", names, want)
	}
	if list.ResourceVersion != "7" || list.Continue != "" {
		t.Errorf("the list ends with %+v", list.ListMeta)
	}
	if slices.Contains(b.kept, true) || len(b.kept) != 2 {
		t.Errorf("texts were held while the next page was asked for: %v", b.kept)
	}
	for i, o := range b.asked {
		next := []string{"", "after-0", "after-1"}[i]
		if o.Limit != int64(firstPage<<i) || o.Continue != next || o.ResourceVersion != "" || o.ResourceVersionMatch != "" || o.LabelSelector != "a=b" {
			t.Errorf("page %d is asked for by %+v", i, o)
		}
	}
}

// TestPagesGoByText: few at first, then up to the most, and fewer of those that are long.
func TestPagesGoByText(t *testing.T) {
	for _, tc := range []struct {
		limit int64
		size  int
		want  int64
	}{
		{firstPage, 0, 100},
		{400, 1 << 20, maxPage},
		{maxPage, 0, maxPage},
		{maxPage, pageBytes, maxPage},
		{maxPage, 2 * pageBytes, 250},
		{firstPage, firstPage * 3 << 19, 10}, // as much as etcd takes
		{1, 1 << 30, 1},
		{10, pageBytes / 4, 20},
	} {
		if got := nextPage(tc.limit, tc.size); got != tc.want {
			t.Errorf("after %d with %d bytes of text: %d, not %d", tc.limit, tc.size, got, tc.want)
		}
	}
	b := bound(1, 1, 1)
	b.pages[0][0].Spec.Prompt = strings.Repeat("p", pageBytes)
	b.pages[1][0].Status.Output.Text = strings.Repeat("a", pageBytes)
	if _, err := b.runs().ListWithContext(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	var limits []int64
	for _, o := range b.asked {
		limits = append(limits, o.Limit)
	}
	// What little else is there takes one off.
	if want := []int64{firstPage, firstPage - 1, firstPage - 2}; !slices.Equal(limits, want) {
		t.Errorf("pages of %d, not %d", limits, want)
	}
}

// TestPagesThatExpire: the reflector is told so in a way that it knows, and has nothing.
func TestPagesThatExpire(t *testing.T) {
	b := bound(1, 1)
	b.fault = apierrors.NewResourceExpired("too old")
	list, err := b.runs().ListWithContext(t.Context(), metav1.ListOptions{})
	if list != nil || !apierrors.IsResourceExpired(err) {
		t.Errorf("%v, %v", list, err)
	}
}

// TestOnlyRunsAreListedByPages: an informer of runs comes to hold them, and asks for no
// list that comes as events; those of other kinds do as client-go does.
func TestOnlyRunsAreListedByPages(t *testing.T) {
	server := newShelfServer()
	server.page = 2
	v := bound(5)
	for i := range v.pages[0] {
		server.put(&v.pages[0][i])
	}
	informer := pagedInformer(listWatch(server), &v1alpha1.ChatRun{}, 0, toolscache.Indexers{})
	go informer.RunWithContext(t.Context())
	if !toolscache.WaitForCacheSync(t.Context().Done(), informer.HasSynced) {
		t.Fatal("it does not come to hold the runs")
	}
	if keys := informer.GetStore().ListKeys(); len(keys) != 5 {
		t.Errorf("it holds %q", keys)
	}
	if _, pages := server.counts(); pages != 3 {
		t.Errorf("%d pages of 2 were asked for", pages)
	}
	if !watchlist.DoesClientNotSupportWatchListSemantics(pagedRuns{}) {
		t.Error("a reflector would ask for a list that comes as events")
	}
	providers := &toolscache.ListWatch{}
	if from := paged(providers, &v1alpha1.ChatProvider{}); from != toolscache.ListerWatcher(providers) {
		t.Errorf("providers are listed as runs are, by a %T", from)
	}
}
