// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"chatrun.dev/operator/api/v1alpha1"
)

const (
	// parentGrace is how long a run waits for one that it goes on from to be
	// created: people apply both in one manifest, in any order.
	parentGrace = time.Minute
	// maxAncestors bounds the search for a cycle among runs that wait for each
	// other.
	maxAncestors = 1024
	// parentLook is when a parent that the cache does not hold is looked at again: no
	// event tells of it.
	parentLook = 2 * time.Second
)

// parent returns the run that another goes on from, or why it cannot go on. The
// parent is pinned by its UID from the first look on.
func (r *ChatRunReconciler) parent(ctx context.Context, run *v1alpha1.ChatRun, now time.Time) (*v1alpha1.ChatRun, *waitReason, error) {
	key := parentKey(run)
	p := &v1alpha1.ChatRun{}
	err := r.client.Get(ctx, key, p)
	unseen := time.Duration(0)
	if apierrors.IsNotFound(err) {
		err = r.live.Get(ctx, key, p) // the cache may only be late
		if r.sharded {
			unseen = parentLook
		}
	}
	pinned := run.Status.ParentUID
	switch {
	case apierrors.IsNotFound(err) && pinned == "":
		left := run.CreationTimestamp.Add(parentGrace).Sub(now)
		wait := final(v1alpha1.ReasonParentNotFound, parentMissingMessage(key.Name))
		if left > 0 {
			if unseen > 0 {
				left = min(left, unseen)
			}
			wait = &waitReason{reason: wait.reason, message: parentAwaitedMessage(key.Name), after: left}
		}
		return nil, wait, nil
	case apierrors.IsNotFound(err), err == nil && pinned != "" && string(p.UID) != pinned:
		return nil, final(v1alpha1.ReasonParentNotFound, parentGoneMessage(key.Name)), nil
	case err != nil:
		return nil, nil, fmt.Errorf("reading the run to go on from: %w", err)
	case isFinished(p):
		return p, unusable(run, p), nil
	}
	cycle, err := r.inCycle(ctx, run, p)
	if err != nil {
		return nil, nil, err
	}
	if cycle {
		return p, final(v1alpha1.ReasonConversationCycle, cycleMessage(key.Name)), nil
	}
	return p, &waitReason{reason: v1alpha1.ReasonWaitingForParent, message: parentUnfinishedMessage(key.Name), after: unseen}, nil
}

// unusable says why a run cannot go on from one that is finished; nil if it can.
func unusable(run, p *v1alpha1.ChatRun) *waitReason {
	out := p.Status.Output
	switch {
	case !isTrue(condition(p, v1alpha1.ConditionSucceeded)):
		return final(v1alpha1.ReasonParentFailed, parentFailedMessage(p))
	case storageOf(p) == v1alpha1.StorageNone:
		return final(v1alpha1.ReasonParentUnusable, parentNotKeptMessage(p.Name))
	case out == nil || valueOr(out.StoredBytes, valueOr(out.Bytes, 0)) < valueOr(out.Bytes, 0),
		valueOr(out.Truncated, false) && out.ConfigMapName == "" && out.SecretName == "":
		return final(v1alpha1.ReasonParentUnusable, parentCutMessage(p.Name))
	case storageOf(p) == v1alpha1.StorageSecret && copyStorage(run) != v1alpha1.StorageSecret:
		return final(v1alpha1.ReasonParentUnusable, parentSecretMessage(p.Name))
	}
	return nil
}

// inCycle says whether a run would go on from itself, by way of others that wait
// as it does.
func (r *ChatRunReconciler) inCycle(ctx context.Context, run, p *v1alpha1.ChatRun) (bool, error) {
	for range maxAncestors {
		switch {
		case p.Name == run.Name:
			return true, nil
		case p.Spec.ContinueFrom == nil || isFinished(p) || attemptOf(p) > 0:
			return false, nil
		}
		next := &v1alpha1.ChatRun{}
		switch err := r.client.Get(ctx, parentKey(p), next); {
		case apierrors.IsNotFound(err):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("reading a run that is gone on from: %w", err)
		}
		p = next
	}
	return false, nil
}

// awaited says whether a run that waits for its first attempt goes on from this
// one, whose answer must therefore stay.
func (r *ChatRunReconciler) awaited(ctx context.Context, run *v1alpha1.ChatRun) (bool, error) {
	children, err := r.children(ctx, run)
	if err != nil {
		return false, err
	}
	for i := range children {
		if pinned := children[i].Status.ParentUID; pinned == "" || pinned == string(run.UID) {
			return true, nil
		}
	}
	return false, nil
}

// children returns the runs that go on from this one, and wait for their first
// attempt.
func (r *ChatRunReconciler) children(ctx context.Context, run client.Object) ([]v1alpha1.ChatRun, error) {
	var list v1alpha1.ChatRunList
	err := r.client.List(ctx, &list, client.InNamespace(run.GetNamespace()), client.MatchingFields{byParent: run.GetName()})
	if err != nil {
		return nil, fmt.Errorf("listing the runs that go on from this one: %w", err)
	}
	return list.Items, nil
}

// tie gives the label of the conversation to a run and to the one that it goes
// on from. A label that stands is left alone, and one that is refused left out:
// the conversation is asked all the same.
func (r *ChatRunReconciler) tie(ctx context.Context, run, p *v1alpha1.ChatRun) error {
	name := p.Labels[v1alpha1.LabelConversation]
	if name == "" {
		name = string(p.UID)
		if err := r.label(ctx, p, name); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	if run.Labels[v1alpha1.LabelConversation] != "" {
		return nil
	}
	return r.label(ctx, run, name)
}

func (r *ChatRunReconciler) label(ctx context.Context, run *v1alpha1.ChatRun, conversation string) error {
	base := run.DeepCopy()
	if run.Labels == nil {
		run.Labels = map[string]string{}
	}
	run.Labels[v1alpha1.LabelConversation] = conversation
	err := r.client.Patch(ctx, run, locked(base), conversationOwner)
	switch {
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		log.FromContext(ctx).Error(err, "the API server refuses the label of the conversation, which is left out", "run", run.Name)
		*run = *base
		return nil
	case err != nil:
		return fmt.Errorf("writing the label of the conversation: %w", err)
	}
	return nil
}

func parentKey(run *v1alpha1.ChatRun) types.NamespacedName {
	return types.NamespacedName{Namespace: run.Namespace, Name: run.Spec.ContinueFrom.Name}
}

// awaitsParent says whether a run still has to copy the conversation that it
// goes on from.
func awaitsParent(run *v1alpha1.ChatRun) bool {
	return run.Spec.ContinueFrom != nil && run.Status.MessagesDigest == "" && !isFinished(run)
}
