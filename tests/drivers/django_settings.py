"""Settings for Django's own tests: the databases that they ask for are there already (--keepdb), and outcomes are written down."""

import json
import os

from django.test import runner

_COMMON = {
    "ENGINE": "django.db.backends.postgresql",
    "HOST": os.environ["PGHOST"],
    "PORT": os.environ["PGPORT"],
    "USER": os.environ["PGUSER"],
    "PASSWORD": os.environ["PGPASSWORD"],
}
DATABASES = {
    "default": {**_COMMON, "NAME": "django", "TEST": {"NAME": "test_django"}},
    "other": {**_COMMON, "NAME": "django2", "TEST": {"NAME": "test_other"}},
}
SECRET_KEY = "for tests only"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "django_settings.Runner"


class _Result(runner.unittest.TextTestResult):
    """Writes the outcome of every test as it ends, so that a run that is cut short has told of its tests."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.out = open(os.environ["OUTCOMES"], "a", buffering=1)

    def _write(self, test, outcome):
        self.out.write(json.dumps([test.id(), outcome]) + "\n")

    def addSuccess(self, test):
        super().addSuccess(test)
        self._write(test, "pass")

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self._write(test, "pass")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self._write(test, "fail")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._write(test, "fail")

    def addError(self, test, err):
        super().addError(test, err)
        self._write(test, "fail")

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._write(test, "fail")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._write(test, "skip")


class Runner(runner.DiscoverRunner):
    """Django's, with that result."""

    def get_resultclass(self):
        return _Result
