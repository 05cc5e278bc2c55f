// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
)

// maxCachedQuestion is how long the question of a run that is not finished may
// be, in bytes, to stay in the cache. A longer one is read from the API server
// when an attempt starts, which costs a request; most are shorter.
const maxCachedQuestion = 4 << 10

// Only lets a manager's cache hold the objects of some namespaces; none is all.
func Only(o ctrl.Options, namespaces []string) ctrl.Options {
	for _, namespace := range namespaces {
		if o.Cache.DefaultNamespaces == nil {
			o.Cache.DefaultNamespaces = map[string]cache.Config{}
		}
		o.Cache.DefaultNamespaces[namespace] = cache.Config{}
	}
	return o
}

// Slim sets what a manager caches: neither ConfigMaps nor Secrets, no
// managedFields, and no long texts of runs, not even while it lists them. All that we
// write are patches, so what the cache lacks is never written back.
func Slim(o ctrl.Options) ctrl.Options {
	o.Cache.DefaultTransform = cache.TransformStripManagedFields()
	o.Cache.ByObject = map[client.Object]cache.ByObject{&v1alpha1.ChatRun{}: {Transform: slim}}
	o.Cache.NewInformer = pagedInformer
	o.Client.Cache = &client.CacheOptions{DisableFor: []client.Object{&corev1.ConfigMap{}, &corev1.Secret{}}}
	return o
}

// slim strips a run of what nobody reads from the cache. It is called with
// objects that nobody else has yet.
func slim(object any) (any, error) {
	run, ok := object.(*v1alpha1.ChatRun)
	if !ok {
		return object, nil
	}
	run.ManagedFields = nil
	finished := isFinished(run)
	if finished || questionSize(&run.Spec) > maxCachedQuestion {
		run.Spec.System, run.Spec.Prompt, run.Spec.Messages = "", "", nil
	}
	if out := run.Status.Output; finished && out != nil {
		out.Text = ""
	}
	return run, nil
}

func questionSize(spec *v1alpha1.ChatRunSpec) int {
	size := len(spec.System) + len(spec.Prompt)
	for i := range spec.Messages {
		size += len(spec.Messages[i].Content)
	}
	return size
}
