// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
)

// statusOwner, titleOwner and conversationOwner are the field managers of all
// that we write: one a purpose, so that a server-side apply of the manifest by
// somebody else meets none of it.
const (
	statusOwner       = client.FieldOwner("chatrun.dev/status")
	titleOwner        = client.FieldOwner("chatrun.dev/title")
	conversationOwner = client.FieldOwner("chatrun.dev/conversation")
)

// question returns what every attempt of a run asks, and the digest of what of
// it does not stand in the spec; or why it cannot be asked. p is the run to go on
// from, as long as its conversation is not copied.
func (r *ChatRunReconciler) question(ctx context.Context, run, p *v1alpha1.ChatRun) (conversation, string, *waitReason, error) {
	whole, err := r.whole(ctx, run)
	if err != nil {
		return conversation{}, "", nil, err
	}
	var m material
	digest := ""
	if needsCopy(run) {
		var wait *waitReason
		if m, wait, err = r.copied(ctx, run, p); wait != nil || err != nil {
			return conversation{}, "", wait, err
		}
		digest = m.digest()
	}
	c, err := ask(&whole.Spec, m)
	if err != nil {
		return conversation{}, "", final(v1alpha1.ReasonMessagesInvalid, messagesInvalidMessage(run, err)), nil
	}
	return c, digest, nil, nil
}

// whole returns a run with its texts, which the cache drops if they are long.
func (r *ChatRunReconciler) whole(ctx context.Context, run *v1alpha1.ChatRun) (*v1alpha1.ChatRun, error) {
	if run.Spec.Prompt != "" || len(run.Spec.Messages) > 0 {
		return run, nil
	}
	live := &v1alpha1.ChatRun{}
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(run), live); err != nil {
		return nil, fmt.Errorf("reading the whole run: %w", err)
	}
	if live.UID != run.UID {
		return nil, errTooOld
	}
	return live, nil
}

// needsCopy says whether a run asks more than its spec holds.
func needsCopy(run *v1alpha1.ChatRun) bool {
	return run.Spec.MessagesFrom != nil || run.Spec.ContinueFrom != nil
}

// copyStorage is where the copy of a run's messages is kept: no more readable
// than its answer.
func copyStorage(run *v1alpha1.ChatRun) v1alpha1.OutputStorage {
	if storageOf(run) == v1alpha1.StorageConfigMap {
		return v1alpha1.StorageConfigMap
	}
	return v1alpha1.StorageSecret
}

// copied returns the copy of a run's messages, which it makes if there is none:
// from then on every attempt asks the same, whatever becomes of the sources.
func (r *ChatRunReconciler) copied(ctx context.Context, run, p *v1alpha1.ChatRun) (material, *waitReason, error) {
	storage, counted := copyStorage(run), run.Status.MessagesDigest
	s, err := readSheet(ctx, r.live, run, storage, messagesName(run))
	switch {
	case apierrors.IsForbidden(err):
		return material{}, r.forbidden(run, v1alpha1.ReasonMessagesNotKept, copyForbiddenMessage(storage, messagesName(run))), nil
	case errors.Is(err, errForeign): // the write below tells of it
	case err != nil:
		return material{}, nil, err
	case s != nil && (counted == "" || materialOf(s).digest() == counted):
		// A manager before us may have made it, and not counted the attempt.
		return materialOf(s), nil, nil
	case s != nil:
		return material{}, final(v1alpha1.ReasonMessagesChanged, copyChangedMessage), nil
	case counted != "" && storage == v1alpha1.StorageSecret:
		return material{}, final(v1alpha1.ReasonMessagesChanged, copyLostMessage), nil
	}
	// There is none, or it was lost, and what it was made of may stand as it was.
	m, wait, err := r.gather(ctx, run, p)
	switch {
	case err != nil:
		return material{}, nil, err
	case counted != "" && wait != nil && !wait.denied, counted != "" && wait == nil && m.digest() != counted:
		return material{}, final(v1alpha1.ReasonMessagesChanged, messagesChangedMessage), nil
	case wait != nil:
		return material{}, wait, nil
	}
	if storage == v1alpha1.StorageSecret {
		m.salt = rand.Text()
	}
	return r.keepCopy(ctx, run, &sheet{storage: storage, name: messagesName(run), data: m.data()})
}

// keepCopy writes the copy of a run's messages.
func (r *ChatRunReconciler) keepCopy(ctx context.Context, run *v1alpha1.ChatRun, s *sheet) (material, *waitReason, error) {
	stands, err := s.write(ctx, r.client, r.live, run)
	switch {
	case refusedForGood(err):
		return material{}, final(v1alpha1.ReasonMessagesNotKept, messagesNotKeptMessage(s, err)), nil
	case apierrors.IsForbidden(err):
		return material{}, r.forbidden(run, v1alpha1.ReasonMessagesNotKept, messagesNotKeptMessage(s, err)), nil
	case err != nil:
		return material{}, nil, err
	}
	return materialOf(stands), nil, nil
}

// copyStands says whether a copy of a run's messages was made.
func (r *ChatRunReconciler) copyStands(ctx context.Context, run *v1alpha1.ChatRun) (bool, error) {
	s, err := readSheet(ctx, r.live, run, copyStorage(run), messagesName(run))
	if errors.Is(err, errForeign) || apierrors.IsForbidden(err) {
		return false, nil
	}
	return s != nil, err
}

// forbidden is the wait for a right that somebody has to give us.
func (r *ChatRunReconciler) forbidden(run *v1alpha1.ChatRun, reason, message string) *waitReason {
	return &waitReason{reason: reason, message: message, after: lookAgainAfter(run, r.clock.Now()), denied: true}
}

// gather reads what a run asks beside its spec.
func (r *ChatRunReconciler) gather(ctx context.Context, run, p *v1alpha1.ChatRun) (material, *waitReason, error) {
	var m material
	if run.Spec.MessagesFrom != nil {
		raw, wait, err := r.source(ctx, run)
		if wait != nil || err != nil {
			return m, wait, err
		}
		m.own = raw
	}
	if run.Spec.ContinueFrom != nil {
		if p == nil {
			// The copy was lost, so the parent is read again.
			var wait *waitReason
			var err error
			if p, wait, err = r.parent(ctx, run, r.clock.Now()); wait != nil || err != nil {
				return m, wait, err
			}
		}
		former, wait, err := r.former(ctx, run, p)
		if wait != nil || err != nil {
			return m, wait, err
		}
		m.former = former.encode()
		if m.size() > v1alpha1.MaxStoredBytes {
			return m, final(v1alpha1.ReasonConversationTooLong, conversationTooLongMessage(m.size())), nil
		}
	}
	return m, nil, nil
}

// source reads what messagesFrom names.
func (r *ChatRunReconciler) source(ctx context.Context, run *v1alpha1.ChatRun) (string, *waitReason, error) {
	ref := run.Spec.MessagesFrom.ConfigMapKeyRef
	if ref == nil {
		return "", final(v1alpha1.ReasonMessagesInvalid, noSourceMessage), nil
	}
	source := &corev1.ConfigMap{}
	err := r.live.Get(ctx, client.ObjectKey{Namespace: run.Namespace, Name: ref.Name}, source)
	raw, ok := source.Data[ref.Key]
	if !ok {
		var binary []byte
		binary, ok = source.BinaryData[ref.Key]
		raw = string(binary)
	}
	message := ""
	switch {
	case apierrors.IsNotFound(err):
		message = sourceMissingMessage(ref.Name)
	case apierrors.IsForbidden(err):
		return "", r.forbidden(run, v1alpha1.ReasonMessagesNotFound, sourceForbiddenMessage(ref.Name)), nil
	case err != nil:
		return "", nil, fmt.Errorf("reading ConfigMap %s: %w", ref.Name, err)
	case !ok:
		message = sourceKeyMissingMessage(ref.Name, ref.Key)
	}
	if message != "" {
		return "", &waitReason{reason: v1alpha1.ReasonMessagesNotFound, message: message, after: lookAgainAfter(run, r.clock.Now())}, nil
	}
	if !utf8.ValidString(raw) {
		return "", final(v1alpha1.ReasonMessagesInvalid, messagesInvalidMessage(run, errors.New("it is not UTF-8"))), nil
	}
	if _, err := parseMessages(raw); err != nil {
		return "", final(v1alpha1.ReasonMessagesInvalid, messagesInvalidMessage(run, err)), nil
	}
	return raw, nil, nil
}

// former returns the whole conversation of a run that succeeded: what it asked,
// and its answer.
func (r *ChatRunReconciler) former(ctx context.Context, run, cached *v1alpha1.ChatRun) (conversation, *waitReason, error) {
	lost := final(v1alpha1.ReasonParentUnusable, parentLostMessage(cached.Name))
	p := &v1alpha1.ChatRun{}
	err := r.live.Get(ctx, client.ObjectKeyFromObject(cached), p)
	switch {
	case apierrors.IsNotFound(err), err == nil && p.UID != cached.UID:
		return conversation{}, final(v1alpha1.ReasonParentNotFound, parentGoneMessage(cached.Name)), nil
	case err != nil:
		return conversation{}, nil, fmt.Errorf("reading the run to go on from: %w", err)
	}
	var m material
	if needsCopy(p) {
		s, err := readSheet(ctx, r.live, p, copyStorage(p), messagesName(p))
		switch {
		case errors.Is(err, errForeign), err == nil && s == nil:
			return conversation{}, lost, nil
		case apierrors.IsForbidden(err):
			return conversation{}, r.forbidden(run, v1alpha1.ReasonMessagesNotFound, parentForbiddenMessage(p)), nil
		case err != nil:
			return conversation{}, nil, err
		}
		if m = materialOf(s); m.digest() != p.Status.MessagesDigest {
			return conversation{}, lost, nil
		}
	}
	c, err := ask(&p.Spec, m)
	if err != nil {
		return conversation{}, lost, nil //nolint:nilerr // the reason tells of it
	}
	answer, stands, err := keptText(ctx, r.live, p)
	switch {
	case apierrors.IsForbidden(err):
		return conversation{}, r.forbidden(run, v1alpha1.ReasonMessagesNotFound, parentForbiddenMessage(p)), nil
	case err != nil:
		return conversation{}, nil, err
	case !stands:
		return conversation{}, lost, nil
	}
	c.Messages = append(c.Messages, v1alpha1.Message{Role: v1alpha1.RoleAssistant, Content: answer})
	return c, nil, nil
}

// lookAgainAfter is when something that no event tells of is looked for again:
// after as long as the run has been there, so that it doubles.
func lookAgainAfter(run *v1alpha1.ChatRun, now time.Time) time.Duration {
	return min(max(now.Sub(run.CreationTimestamp.Time), minSecretDelay), maxSecretDelay)
}
