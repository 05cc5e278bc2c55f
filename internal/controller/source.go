// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/streamer"
)

// Source tells the stream endpoint what stands in a run's object.
type Source struct {
	// Cache answers as a rule. Live is asked for what the cache does not know: a
	// reader often comes right behind the apply, and before the watch event.
	Cache, Live client.Reader
}

// Find implements streamer.Source.
func (s Source) Find(ctx context.Context, namespace, name string) (streamer.View, error) {
	run := &v1alpha1.ChatRun{}
	key := types.NamespacedName{Namespace: namespace, Name: name}
	err := s.Cache.Get(ctx, key, run)
	if apierrors.IsNotFound(err) {
		err = s.Live.Get(ctx, key, run)
	}
	switch {
	case apierrors.IsNotFound(err):
		return streamer.View{}, streamer.ErrNotFound
	case err != nil:
		// Readers are told no more than that it did not work.
		log.FromContext(ctx).WithName("stream").Error(err, "reading a run for the stream", "namespace", namespace, "name", name)
		return streamer.View{}, fmt.Errorf("reading the run: %w", err)
	}
	view := streamer.View{
		Run: runOf(run), Status: streamStatus(run), Finished: isFinished(run),
		Title: run.Annotations[v1alpha1.AnnotationTitle],
	}
	switch {
	case view.Finished:
		view.End = endOf(run)
		if out := run.Status.Output; out != nil {
			view.Text = out.Text
		}
	case reasonOf(run) == v1alpha1.ReasonRetrying && run.Status.RetryingAt != nil:
		pending := streamRetry(run)
		view.Retry = &pending
	}
	return view, nil
}
