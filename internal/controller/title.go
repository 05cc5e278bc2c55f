// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/metrics"
)

// titlePrompt returns the question that a title is to be made of, and false if
// none is wanted: the policy says None, a title stands, or the conversation is
// more than one message of the user.
func titlePrompt(run *v1alpha1.ChatRun, messages []v1alpha1.Message) (string, bool) {
	if t := run.Spec.Title; t != nil && t.Policy == v1alpha1.TitleNone {
		return "", false
	}
	if _, stands := run.Annotations[v1alpha1.AnnotationTitle]; stands {
		return "", false
	}
	prompt, users := "", 0
	for _, m := range messages {
		switch m.Role {
		case v1alpha1.RoleAssistant:
			return "", false
		case v1alpha1.RoleUser:
			prompt = m.Content
			users++
		case v1alpha1.RoleSystem:
		}
	}
	return prompt, users == 1
}

// titleRetry is when a title that could not be written is tried again.
const titleRetry = 5 * time.Second

// handTitle writes a title that lies in the pool, whatever the run's state, and
// returns when to look again. However the write ends, the run's own time stands.
func (r *ChatRunReconciler) handTitle(ctx context.Context, f facts, d decision, after time.Duration) (time.Duration, error) {
	if f.run == nil || f.pool == nil || f.pool.Title == "" {
		return after, nil
	}
	if d.row == 4 && d.verb == ignore {
		// What we read is older than what we wrote: the API server would refuse the
		// write, and what was written comes in a moment.
		return after, nil
	}
	uid := string(f.run.UID)
	switch err := r.writeTitle(ctx, f); {
	case err == nil:
		r.pool.SettleTitle(uid)
		result := metrics.TitleWritten
		if f.run.Annotations[v1alpha1.AnnotationTitle] != f.pool.Title {
			result = metrics.TitleSuperseded
		}
		r.metrics.Title(result)
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return after, err
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		// Trying again would be refused again, unlike when the server is busy.
		log.FromContext(ctx).Error(err, "the API server refuses the title, so it is dropped")
		r.pool.SettleTitle(uid)
		r.metrics.Title(metrics.TitleRefused)
	default:
		log.FromContext(ctx).Error(err, "the title is tried again")
		if after == 0 || titleRetry < after {
			return titleRetry, nil
		}
		return after, nil
	}
	if d.verb == forget {
		// No further event has to follow, and nothing is left to remember.
		r.pool.Forget(uid)
	}
	return after, nil
}

// writeTitle writes the title. One that stands on the object wins, also one
// that was set in the meantime: the write is refused then, and the next look
// finds it.
func (r *ChatRunReconciler) writeTitle(ctx context.Context, f facts) error {
	if _, stands := f.run.Annotations[v1alpha1.AnnotationTitle]; stands {
		return nil
	}
	base := f.run.DeepCopy()
	if f.run.Annotations == nil {
		f.run.Annotations = map[string]string{}
	}
	f.run.Annotations[v1alpha1.AnnotationTitle] = f.pool.Title
	if err := r.client.Patch(ctx, f.run, locked(base), titleOwner); err != nil {
		return fmt.Errorf("writing the title: %w", err)
	}
	r.hub.Title(runOf(f.run), f.pool.Title)
	return nil
}
