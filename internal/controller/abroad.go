// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"chatrun.dev/operator/api/v1alpha1"
)

// abroad counts the attempts that other replicas have under way, by provider. One
// replica holds all places of a provider with a limit; when it becomes another one,
// as members come and go, what was begun before still counts.
type abroad struct {
	mu         sync.Mutex
	byProvider map[types.NamespacedName]map[types.UID]struct{}
}

// at returns how many there are at a provider.
func (a *abroad) at(namespace, provider string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.byProvider[types.NamespacedName{Namespace: namespace, Name: provider}])
}

// see takes note of a run, and reports whether it made room at its provider.
func (a *abroad) see(run *v1alpha1.ChatRun, me string) bool {
	if w := run.Status.Worker; w == "" || w == me || !isStreaming(run) {
		return a.gone(run)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	key := providerKey(run)
	if a.byProvider == nil {
		a.byProvider = map[types.NamespacedName]map[types.UID]struct{}{}
	}
	if a.byProvider[key] == nil {
		a.byProvider[key] = map[types.UID]struct{}{}
	}
	a.byProvider[key][run.UID] = struct{}{}
	return false
}

// gone takes note that a run is no more under way elsewhere, and reports whether
// it was.
func (a *abroad) gone(run *v1alpha1.ChatRun) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := providerKey(run)
	_, was := a.byProvider[key][run.UID]
	if delete(a.byProvider[key], run.UID); len(a.byProvider[key]) == 0 {
		delete(a.byProvider, key)
	}
	return was
}

func providerKey(run *v1alpha1.ChatRun) types.NamespacedName {
	return types.NamespacedName{Namespace: run.Namespace, Name: run.Spec.ProviderRef.Name}
}
