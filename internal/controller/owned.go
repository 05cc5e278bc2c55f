// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
)

// annotationOutcome holds, on the object that keeps an answer, what is known of
// the answer beside its text, so that a run can be finished from it.
const annotationOutcome = "chatrun.dev/outcome"

// errForeign says that an object which a run should own belongs to another, or
// holds something else than the run put there.
var errForeign = errors.New("the name is taken by an object of another owner")

// sheet is what is kept of a run beside its status: an immutable object that it
// owns. Only its name ties it to the run that is looked at, and its owner proves
// it.
type sheet struct {
	// storage says whether it is a ConfigMap or a Secret.
	storage v1alpha1.OutputStorage
	name    string
	// outcome is the annotation; empty if there is none.
	outcome string
	data    map[string]string
}

// answerName is where the answer of an attempt is kept. It is made of the UID,
// so no other run's stands there, also one of the same name.
func answerName(run *v1alpha1.ChatRun, attempt int32) string {
	return fmt.Sprintf("chatrun-%s-%d", run.UID, attempt)
}

// messagesName is where the copy of a run's messages is kept.
func messagesName(run *v1alpha1.ChatRun) string {
	return fmt.Sprintf("chatrun-%s-messages", run.UID)
}

// object is the sheet as it is written.
func (s *sheet) object(run *v1alpha1.ChatRun) client.Object {
	m := metav1.ObjectMeta{
		Namespace: run.Namespace, Name: s.name,
		// Not blockOwnerDeletion: some clusters ask for a right on the owner's
		// finalizers then, and nobody needs to wait for us.
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: v1alpha1.GroupVersion.String(), Kind: "ChatRun",
			Name: run.Name, UID: run.UID, Controller: new(true),
		}},
	}
	if s.outcome != "" {
		m.Annotations = map[string]string{annotationOutcome: s.outcome}
	}
	if s.storage == v1alpha1.StorageConfigMap {
		return &corev1.ConfigMap{ObjectMeta: m, Immutable: new(true), Data: s.data}
	}
	secret := &corev1.Secret{ObjectMeta: m, Immutable: new(true), Data: map[string][]byte{}}
	for k, v := range s.data {
		secret.Data[k] = []byte(v)
	}
	return secret
}

// readSheet reads an object that a run owns, past any cache. It returns nil if
// there is none, and errForeign if the object of that name is not the run's.
func readSheet(ctx context.Context, live client.Reader, run *v1alpha1.ChatRun, storage v1alpha1.OutputStorage, name string) (*sheet, error) {
	// client-go writes bodies to the context's log, at a level that nobody should
	// use and somebody will.
	ctx = logr.NewContext(ctx, logr.Discard())
	key := client.ObjectKey{Namespace: run.Namespace, Name: name}
	s := &sheet{storage: storage, name: name}
	var object client.Object
	var err error
	if storage == v1alpha1.StorageConfigMap {
		m := &corev1.ConfigMap{}
		err, object = live.Get(ctx, key, m), m
		s.data = m.Data
	} else {
		m := &corev1.Secret{}
		err, object = live.Get(ctx, key, m), m
		s.data = map[string]string{}
		for k, v := range m.Data {
			s.data[k] = string(v)
		}
	}
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading %s %s: %w", kindOf(storage), name, err)
	case !metav1.IsControlledBy(object, run):
		return nil, errForeign
	}
	s.outcome = object.GetAnnotations()[annotationOutcome]
	return s, nil
}

// write creates the sheet. If an object stands there that the run owns, it is
// returned: a write whose answer was lost did stand, or a manager before us made
// it. Otherwise errForeign, or the API server's error.
func (s *sheet) write(ctx context.Context, c client.Client, live client.Reader, run *v1alpha1.ChatRun) (*sheet, error) {
	err := c.Create(logr.NewContext(ctx, logr.Discard()), s.object(run), statusOwner)
	switch {
	case err == nil:
		return s, nil
	case !apierrors.IsAlreadyExists(err):
		return nil, fmt.Errorf("writing %s %s: %w", kindOf(s.storage), s.name, err)
	}
	stands, err := readSheet(ctx, live, run, s.storage, s.name)
	if err == nil && stands == nil {
		return nil, errTooOld // it went in between
	}
	return stands, err
}

// same reports whether two sheets hold the same text. How it came to an end may
// be told in two ways, if a cancel came behind a deadline.
func (s *sheet) same(as *sheet) bool { return maps.Equal(s.data, as.data) }

// refusedForGood says whether the API server will refuse a write again.
func refusedForGood(err error) bool {
	return errors.Is(err, errForeign) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) ||
		apierrors.IsRequestEntityTooLargeError(err)
}

func kindOf(storage v1alpha1.OutputStorage) string {
	if storage == v1alpha1.StorageConfigMap {
		return "ConfigMap"
	}
	return "Secret"
}

func storageOf(run *v1alpha1.ChatRun) v1alpha1.OutputStorage {
	if o := run.Spec.Output; o != nil && o.Storage != "" {
		return o.Storage
	}
	return v1alpha1.StorageConfigMap
}
