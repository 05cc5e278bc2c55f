// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/singleflight"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	lru "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/streamer"
)

const (
	// listTTL is how long a list is kept, for all who ask for it: however many they
	// are, a namespace is looked at once in that time.
	listTTL = time.Second
	// maxListed bounds the runs of a namespace that are listed, the newest, of some
	// 400 bytes each; maxNamespaces the lists that are kept. Both full is 32 MB.
	maxListed, maxNamespaces = 5000, 16
	// maxWalked bounds the runs that are read from the API server for one list, and
	// walkedPage those of one request.
	maxWalked, walkedPage = 10_000, 500
	// listTimeout bounds the making of a list.
	listTimeout = 10 * time.Second
)

// RunLists lists the runs of namespaces for the stream endpoint. From a cache that
// holds all runs it takes them at no cost. Where that holds a share it asks the
// API server for the columns that kubectl prints, since whole runs bring what was
// asked and answered along.
type RunLists struct {
	cache client.Reader
	// api is where all runs are if the cache has a share of them; nil if it has all.
	api  rest.Interface
	only []string

	kept     *lru.LRUExpireCache
	underway singleflight.Group
}

// NewRunLists returns one that reads by a manager's clients. only are the
// namespaces that are watched, none is all; sharded says that the cache holds a
// share of the runs.
func NewRunLists(mgr ctrl.Manager, only []string, sharded bool) (*RunLists, error) {
	l := &RunLists{cache: mgr.GetClient(), only: only, kept: lru.NewLRUExpireCache(maxNamespaces)}
	if sharded {
		set, err := kubernetes.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
		if err != nil {
			return nil, fmt.Errorf("making a client for lists: %w", err)
		}
		l.api = set.Discovery().RESTClient()
	}
	return l, nil
}

// runList is a list that was made.
type runList struct {
	runs      []stream.Summary
	truncated bool
}

// Runs implements streamer.Lister.
func (l *RunLists) Runs(ctx context.Context, namespace string) ([]stream.Summary, bool, error) {
	if len(l.only) > 0 && !slices.Contains(l.only, namespace) {
		return nil, false, streamer.ErrNotWatched
	}
	if kept, ok := l.kept.Get(namespace); ok {
		made, _ := kept.(runList) // nothing else is ever added
		return made.runs, made.truncated, nil
	}
	answers := l.underway.DoChan(namespace, func() (any, error) {
		// One who leaves must not take the list from the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), listTimeout)
		defer cancel()
		made, err := l.make(ctx, namespace)
		if err != nil {
			log.FromContext(ctx).WithName("stream").Error(err, "listing the runs of a namespace", "namespace", namespace)
			return runList{}, err
		}
		l.kept.Add(namespace, made, listTTL)
		return made, nil
	})
	select {
	case answer := <-answers:
		made, _ := answer.Val.(runList) // the function above returns nothing else
		return made.runs, made.truncated, answer.Err
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// make reads all runs of a namespace, and keeps the newest.
func (l *RunLists) make(ctx context.Context, namespace string) (made runList, err error) {
	if l.api != nil {
		made, err = l.walk(ctx, namespace)
	} else {
		var all v1alpha1.ChatRunList
		// They are the cache's own: nothing here changes them.
		if err = l.cache.List(ctx, &all, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err == nil {
			made.runs = make([]stream.Summary, len(all.Items))
			for i := range all.Items {
				made.runs[i] = summaryOf(&all.Items[i])
			}
		}
	}
	slices.SortFunc(made.runs, streamer.Newest)
	if len(made.runs) > maxListed {
		made.runs, made.truncated = slices.Clone(made.runs[:maxListed]), true
	}
	return made, err
}

// summaryOf says of a run what a list shows.
func summaryOf(run *v1alpha1.ChatRun) stream.Summary {
	s := stream.Summary{
		Name: run.Name, UID: string(run.UID), Provider: run.Spec.ProviderRef.Name, Model: run.Status.Model,
		Phase: string(run.Status.Phase), Reason: reasonOf(run), Attempt: attemptOf(run), LastErrorReason: run.Status.LastErrorReason,
		DelayMs: valueOr(run.Status.DelayMs, 0), Title: run.Annotations[v1alpha1.AnnotationTitle], CreatedAt: run.CreationTimestamp.UTC(),
	}
	if at := run.Status.RetryingAt; at != nil {
		s.RetryingAt = at.UTC()
	}
	return s
}

// tableType asks for the columns that kubectl prints.
const tableType = "application/json;as=Table;g=meta.k8s.io;v=v1"

// walk reads the columns of all runs of a namespace, page by page.
func (l *RunLists) walk(ctx context.Context, namespace string) (runList, error) {
	var made runList
	next := ""
	for range maxWalked / walkedPage {
		raw, err := l.api.Get().
			AbsPath("/apis", v1alpha1.GroupVersion.Group, v1alpha1.GroupVersion.Version, "namespaces", namespace, "chatruns").
			SetHeader("Accept", tableType).
			Param("includeObject", string(metav1.IncludeMetadata)).
			Param("limit", strconv.Itoa(walkedPage)).Param("continue", next).
			Do(ctx).Raw()
		if err != nil {
			return runList{}, fmt.Errorf("reading the columns of runs: %w", err)
		}
		table := &metav1.Table{}
		if err := json.Unmarshal(raw, table); err != nil {
			return runList{}, fmt.Errorf("reading the columns of runs: %w", err)
		}
		if made.runs, err = appendRows(made.runs, table); err != nil {
			return runList{}, err
		}
		if next = table.Continue; next == "" {
			return made, nil
		}
	}
	made.truncated = true
	return made, nil
}

// appendRows reads runs from their columns, which the markers of v1alpha1.ChatRun
// name, and their metadata.
func appendRows(runs []stream.Summary, table *metav1.Table) ([]stream.Summary, error) {
	for i := range table.Rows {
		var object metav1.PartialObjectMetadata
		if err := json.Unmarshal(table.Rows[i].Object.Raw, &object); err != nil {
			return nil, fmt.Errorf("reading the metadata of a run: %w", err)
		}
		s := stream.Summary{
			Name: object.Name, UID: string(object.UID), CreatedAt: object.CreationTimestamp.UTC(),
			Title: object.Annotations[v1alpha1.AnnotationTitle],
		}
		for column, cell := range table.Rows[i].Cells {
			if column < len(table.ColumnDefinitions) {
				setColumn(&s, table.ColumnDefinitions[column].Name, cell)
			}
		}
		runs = append(runs, s)
	}
	return runs, nil
}

// setColumn takes one cell. One that is empty is null.
func setColumn(s *stream.Summary, column string, cell any) {
	text, _ := cell.(string)
	number, _ := cell.(float64)
	switch column {
	case "Provider":
		s.Provider = text
	case "Model":
		s.Model = text
	case "Phase":
		s.Phase = text
	case "Reason":
		s.Reason = text
	case "Attempt":
		s.Attempt = int32(number)
	case "Last-Error":
		s.LastErrorReason = text
	case "Delay-Ms":
		s.DelayMs = int64(number)
	case "Retrying-At":
		// What is no time is none: the countdown stays away.
		s.RetryingAt, _ = time.Parse(time.RFC3339Nano, text)
	}
}
